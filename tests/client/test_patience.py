"""How long a silence is too long."""

from conveyor.client.patience import SECONDS_PER_STEP, Patience


def test_patience_grows_with_each_silence() -> None:
    """What only takes long is waited for in the end, and a message starts over."""
    patience = Patience(2.0)
    limits = []
    for _ in range(3):
        limits.append(patience.limit())
        patience.lose()
    patience.reset()

    assert [*limits, patience.limit()] == [2.0, 4.0, 8.0, 2.0]


def test_steps_in_flight_have_their_time() -> None:
    """A long chunk is waited for longer than a single step."""
    assert Patience(2.0).limit(1000) == 2.0 + 1000 * SECONDS_PER_STEP

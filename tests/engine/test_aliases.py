"""The version that a session is opened on if it names none."""

from collections import Counter

import pytest

from conveyor.engine.aliases import Alias, moved, shared_version

IDS = [f"session-{number}" for number in range(10_000)]


@pytest.mark.parametrize("percent", [0, 1, 10, 50, 100])
def test_a_share_is_what_it_says(percent: int) -> None:
    """Of ten thousand ids a canary gets its percentage, within a percent; `stable` gets the rest."""
    aliases = {"stable": Alias(3), "canary": Alias(4, percent)}
    counts = Counter(shared_version(aliases, "lm", session_id) for session_id in IDS)

    assert counts[4] == pytest.approx(100 * percent, abs=100 if 0 < percent < 100 else 0)
    assert counts[3] == len(IDS) - counts[4]


def test_a_share_that_grows_keeps_its_sessions() -> None:
    """Whoever was on the canary stays there when more come."""
    few, many = ({"stable": Alias(3), "canary": Alias(4, percent)} for percent in (10, 30))
    on_canary = [session_id for session_id in IDS if shared_version(few, "lm", session_id) == 4]

    assert on_canary
    assert all(shared_version(many, "lm", session_id) == 4 for session_id in on_canary)


def test_models_share_out_independently() -> None:
    """An id that is a canary of one model is none of another's more often than any other."""
    aliases = {"canary": Alias(4, 50)}
    both = sum(shared_version(aliases, "a", each) == shared_version(aliases, "b", each) == 4 for each in IDS)

    assert both == pytest.approx(len(IDS) / 4, abs=200)


def test_the_rest_is_the_newest_without_a_stable_version() -> None:
    """0 stands for it."""
    assert {shared_version({"canary": Alias(4, 10), "old": Alias(1)}, "lm", each) for each in IDS} == {4, 0}
    assert shared_version({}, "lm", "x") == 0


def test_aliases_move_where_they_can() -> None:
    """One whose version is not open stays as it was; if that is not open either, it moves all the same."""
    before = {"stable": Alias(1), "canary": Alias(2, 10), "old": Alias(3)}
    wanted = {"stable": Alias(2), "canary": Alias(4, 50), "new": Alias(4, 5), "old": Alias(4)}

    assert moved(before, wanted, {1, 2}) == {
        "stable": Alias(2),
        "canary": Alias(2, 10),
        "new": Alias(4, 5),
        "old": Alias(4),
    }

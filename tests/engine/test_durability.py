"""Which checkpoints stay in the store: there is always one that the client is not behind."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from conveyor.engine.durability import MAX_LATEST_ASYNC, MAX_LATEST_SYNC, Durability, Mode, Stored
from conveyor.store import Save, Saved
from conveyor.store.memory import MemoryStore

# Steps since the checkpoint before, and how far the client is behind the session when it is made.
checkpoints = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30)), max_size=60)


def follow(mode: Mode, moves: list[tuple[int, int]]) -> None:
    """Stores checkpoints as an engine would, and looks after each at what a server that takes over would find."""
    stored, store = Stored(Durability(mode), epoch=1, checkpoints=[0]), MemoryStore()
    position = acknowledged = 0

    async def save(position: int, oldest: int, latest: int, head: bytes | None = None) -> dict[int, bytes]:
        saved = Save("a", 1, position, b"%d" % position, oldest, 60.0, head, latest)
        assert await store.save([saved], must_replicate=False) == [Saved.DONE]
        record = await store.read("a")
        assert record is not None
        return record.checkpoints

    async def run() -> None:
        nonlocal position, acknowledged
        await save(0, 0, 0, b"head")
        for num_steps, num_behind in moves:
            position += num_steps
            acknowledged = max(acknowledged, position - num_behind)
            oldest, latest = stored.kept(acknowledged)
            found = await save(position, oldest, latest)
            stored.add(position, oldest, latest)
            assert sorted(found) == stored.checkpoints
            assert stored.newest == position
            assert any(place <= acknowledged for place in found), (acknowledged, sorted(found))
            assert stored.base(acknowledged) == max(place for place in found if place <= acknowledged)
            most = MAX_LATEST_SYNC if mode is Mode.SYNC else MAX_LATEST_ASYNC
            assert len(found) <= most + 1

    asyncio.run(run())


@given(checkpoints)
def test_a_client_is_behind_no_checkpoint_of_an_async_session(moves: list[tuple[int, int]]) -> None:
    """Wherever it is at or after what it has acknowledged; and the store has few checkpoints of each session."""
    follow(Mode.ASYNC, moves)


@given(checkpoints)
def test_a_client_is_behind_no_checkpoint_of_a_sync_session(moves: list[tuple[int, int]]) -> None:
    """As of the other; it has one for each of the answers that the client may not have read."""
    follow(Mode.SYNC, moves)


def test_each_unread_answer_of_a_sync_session_has_a_checkpoint() -> None:
    """A client that read any of the latest answers goes on right behind it."""
    stored = Stored(Durability(Mode.SYNC), epoch=1, checkpoints=[0])
    for position in range(1, 16):
        stored.add(position, *stored.kept(0))

    assert [stored.base(received) for received in range(16)] == list(range(16))


def test_the_base_never_goes_back() -> None:
    """What was told to be durable stays so while the client acknowledges nothing more."""
    stored = Stored(Durability(Mode.ASYNC), epoch=1, checkpoints=[0, 10])
    bases = []
    for position in range(20, 80, 10):
        bases.append(stored.base(12))
        stored.add(position, *stored.kept(12))

    assert bases == [10] * 6
    assert stored.base(9) is None


def test_nothing_is_durable_before_it_is_stored() -> None:
    """A session whose record is being made has no checkpoint."""
    stored = Stored(Durability(Mode.ASYNC))

    assert (stored.newest, stored.base(100), stored.kept(100)) == (None, None, (0, 0))

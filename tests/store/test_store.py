"""What every store does."""

import asyncio
import random

import pytest

from conveyor.store.memory import MemoryStore
from conveyor.store.store import LISTED_BYTES, Record, Saved, Store
from tests.store.saves import opening_of, read_pages, save_of


async def test_a_session_is_stored_and_read_back(store: Store) -> None:
    """The record has what opened the session, and its checkpoints from the oldest that is still wanted."""
    epochs = await store.create([opening_of()])
    for position in (10, 20, 30):
        saved = await store.save(
            [save_of(position=position, checkpoint=b"%d" % position, oldest=position - 10)], must_replicate=True
        )
        assert saved == [Saved.DONE]

    assert epochs == [1]
    assert await store.read("a") == Record("a", 1, b"head of a", {20: b"20", 30: b"30"})


async def test_bytes_of_any_kind_and_size_come_back(store: Store) -> None:
    """Empty ones, all byte values, and a megabyte."""
    states = {"empty": b"", "all": bytes(range(256)), "large": bytes(range(256)) * 4096}
    await store.create([save_of(name, checkpoint=state, head=state) for name, state in states.items()])

    for name, state in states.items():
        assert await store.read(name) == Record(name, 1, state, {0: state})


async def test_an_open_session_is_not_opened_again(store: Store) -> None:
    """Be it stored before, or in the same batch."""
    await store.create([opening_of("a", b"mine")])

    epochs = await store.create([opening_of("a", b"other"), opening_of("b", b"one"), opening_of("b", b"two")])

    assert epochs == [0, 1, 0]
    assert (await store.read("a")).checkpoints == {0: b"mine"}
    assert (await store.read("b")).checkpoints == {0: b"one"}


async def test_whoever_has_lost_a_session_is_refused(store: Store) -> None:
    """Taking a session up fences its former owner off; the new one saves with the epoch it was given."""
    await store.create([opening_of("a"), opening_of("b")])
    record = await store.acquire("a")

    late = await store.save([save_of("a", 10), save_of("b", 10)], must_replicate=False)
    new = await store.save([save_of("a", 20, epoch=2)], must_replicate=False)

    assert record == Record("a", 2, b"head of a", {0: b"first"})
    assert late == [Saved.FENCED, Saved.DONE]
    assert new == [Saved.DONE]
    assert sorted((await store.read("a")).checkpoints) == [0, 20]


async def test_a_session_is_taken_up_from_the_epoch_that_was_seen(store: Store) -> None:
    """Of two who have seen the same epoch, only the first takes the session."""
    await store.create([opening_of("a")])

    first, second = await store.acquire("a", 1), await store.acquire("a", 1)

    assert first is not None
    assert (first.epoch, second) == (2, None)
    assert (await store.read("a")).epoch == 2


async def test_a_line_that_was_given_up_goes(store: Store) -> None:
    """Saves of a new owner take away what the former one had stored further on; its own stay."""
    await store.create([opening_of()])
    await store.save([save_of(position=10, checkpoint=b"old")], must_replicate=False)
    await store.save([save_of(position=20, checkpoint=b"old")], must_replicate=False)
    await store.acquire("a")

    await store.save([save_of(position=15, epoch=2, checkpoint=b"new")], must_replicate=False)
    behind = (await store.read("a")).checkpoints
    await store.save([save_of(position=12, epoch=2, checkpoint=b"late")], must_replicate=False)

    assert behind == {0: b"first", 10: b"old", 15: b"new"}
    assert (await store.read("a")).checkpoints == {**behind, 12: b"late"}


async def test_a_store_that_was_set_back_takes_the_newer_owner(store: Store) -> None:
    """An epoch above the record's is taken and stays."""
    await store.create([opening_of()])

    saved = await store.save([save_of(position=10, epoch=5)], must_replicate=False)
    fenced = await store.save([save_of(position=20, epoch=4)], must_replicate=False)

    assert (saved, fenced) == ([Saved.DONE], [Saved.FENCED])
    assert (await store.read("a")).epoch == 5


async def test_a_record_that_is_gone_is_made_by_a_save_with_a_head(store: Store) -> None:
    """Without one it cannot be."""
    without = await store.save([save_of(epoch=3)], must_replicate=False)
    missing = await store.read("a")
    made = await store.save([save_of(epoch=3, position=7, head=b"head")], must_replicate=False)

    assert (without, missing, made) == ([Saved.GONE], None, [Saved.DONE])
    assert await store.read("a") == Record("a", 3, b"head", {7: b"state"})


async def test_a_closed_session_does_not_come_back(store: Store) -> None:
    """Its last owner is refused with or without a head, nobody can take it up, and it is not listed."""
    await store.create([opening_of("a"), opening_of("b")])
    await store.acquire("a")
    await store.close([("a", 2)])

    for epoch in (1, 2):
        saves = [save_of(epoch=epoch), save_of("b", 10)], [save_of(epoch=epoch, head=b"head")]
        assert await store.save(saves[0], must_replicate=False) == [Saved.FENCED, Saved.DONE]
        assert await store.save(saves[1], must_replicate=False) == [Saved.FENCED]
    assert await store.acquire("a") is None
    assert await store.read("a") is None
    assert list(await read_pages(store, 10)) == ["b"]


async def test_an_id_is_used_again_under_a_higher_epoch(store: Store) -> None:
    """A server that had the closed session can touch the new one no more than the closed one."""
    await store.create([opening_of()])
    await store.acquire("a")
    await store.close([("a", 2)])

    epochs = await store.create([opening_of("a", b"again")])

    assert epochs == [3]
    assert await store.save([save_of(epoch=2)], must_replicate=False) == [Saved.FENCED]
    assert await store.read("a") == Record("a", 3, b"head of a", {0: b"again"})


async def test_only_the_owner_closes(store: Store) -> None:
    """A close of a lower epoch is too late; one of a higher is that of the owner whom the store has forgotten."""
    await store.create([opening_of("a"), opening_of("b")])
    await store.acquire("a")

    await store.close([("a", 1), ("b", 4)])

    assert (await store.read("a")).epoch == 2
    assert await store.create([opening_of("b")]) == [5]


async def test_a_close_of_what_is_gone_is_kept_too(store: Store) -> None:
    """Or a server that wakes up late would make the record anew."""
    await store.close([("a", 2)])

    assert await store.save([save_of(epoch=2, head=b"head")], must_replicate=False) == [Saved.FENCED]
    assert await store.save([save_of(epoch=3)], must_replicate=False) == [Saved.GONE]
    assert await store.save([save_of(epoch=3, head=b"head")], must_replicate=False) == [Saved.DONE]


async def test_what_nobody_saves_expires(store: Store) -> None:
    """A record lives as long as its last save said, and is gone as if it had never been."""
    await store.create([opening_of("a", seconds=0.001), opening_of("b"), opening_of("c", seconds=0.001)])
    await store.save([save_of("b", 10, seconds=0.001)], must_replicate=False)
    await asyncio.sleep(0.01)

    assert await store.acquire("a") is None
    assert await store.read("b") is None
    assert await read_pages(store, 10) == {}
    assert await store.save([save_of("a", 10), save_of("b", 20)], must_replicate=False) == [Saved.GONE, Saved.GONE]
    assert await store.save([save_of("b", 20, head=b"new")], must_replicate=False) == [Saved.DONE]
    assert await store.create([opening_of("c", b"new")]) == [1]
    assert await store.read("b") == Record("b", 1, b"new", {20: b"state"})
    assert await store.read("c") == Record("c", 1, b"head of c", {0: b"new"})


async def test_who_takes_a_session_up_lets_it_live(store: Store) -> None:
    """It lives for as long as the new owner says, if it would not live for longer by itself."""
    await store.create([opening_of("a", seconds=0.5), opening_of("b", seconds=0.5)])
    await store.acquire("a", seconds=600.0)
    await store.acquire("b", seconds=0.001)
    assert (await store.read("b")).epoch == 2
    await asyncio.sleep(0.6)

    assert (await store.read("a")).epoch == 2
    assert await store.read("b") is None


@pytest.mark.parametrize("count", [1, 7, 100])
async def test_all_open_sessions_are_listed(store: Store, count: int) -> None:
    """In pages of any size, with heads and positions, and without the states."""
    names = [f"s{number}" for number in range(40)]
    await store.create([opening_of(name) for name in names])
    await store.save([save_of(name, 5) for name in names], must_replicate=False)
    await store.close([(name, 1) for name in names[30:]])

    listed = await read_pages(store, count)

    assert listed == {name: Record(name, 1, b"head of " + name.encode(), {0: b"", 5: b""}) for name in names[:30]}


async def test_lists_leave_the_ends_of_long_heads_out(store: Store) -> None:
    """There may be a picture in each, and a page of those would take minutes and gigabytes."""
    head = random.Random(0).randbytes(3 * LISTED_BYTES)
    await store.create([save_of("long", head=head), save_of("whole", head=head[:LISTED_BYTES])])
    listed = await read_pages(store, 10)

    assert {record.head for record in listed.values()} == {head[:LISTED_BYTES]}
    assert (await store.read("long")).head == head


async def test_a_batch_may_have_any_size(store: Store) -> None:
    """None, one, or more than a statement takes."""
    names = [f"s{number}" for number in range(2500)]

    assert await store.create([]) == []
    assert await store.save([], must_replicate=True) == []
    await store.close([])
    assert await store.create([opening_of(name) for name in names]) == [1] * 2500
    assert await store.save([save_of(name, 1) for name in names], must_replicate=False) == [Saved.DONE] * 2500
    await store.close([(name, 1) for name in names])
    assert await read_pages(store, 1000) == {}


async def test_operations_may_overlap(store: Store) -> None:
    """However many are under way, each gets its own answer."""
    names = [f"s{number}" for number in range(200)]

    assert await asyncio.gather(*(store.create([opening_of(name)]) for name in names)) == [[1]] * 200
    records = await asyncio.gather(*(store.acquire(name) for name in names))

    assert records == [Record(name, 2, b"head of " + name.encode(), {0: b"first"}) for name in names]


async def test_memory_forgets_what_has_expired() -> None:
    """Nobody has to ask for it again."""
    store = MemoryStore()
    await store.create([opening_of(f"s{number}", seconds=0.001) for number in range(100)])
    await asyncio.sleep(0.01)

    await store.create([opening_of(f"new{number}") for number in range(50)])

    assert len(store._entries) == 50

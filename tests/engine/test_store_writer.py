"""Checkpoints on their way to a store, which may fail, hang and come back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from time import monotonic

import pytest

from conveyor.engine import store_writer
from conveyor.engine.store_writer import MAX_SAVE_BYTES, MAX_SAVES, StoreWriter, first_of_call
from conveyor.store import Save, Saved, StoreError
from tests.engine.stores import TroubledStore
from tests.store.saves import opening_of, save_of

Told = list[Saved | StoreError]


@pytest.fixture
def store() -> TroubledStore:
    return TroubledStore()


@pytest.fixture
async def writer(store: TroubledStore, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StoreWriter]:
    """A writer that has begun, and does not wait for long."""
    monkeypatch.setattr(store_writer, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(store_writer, "LONGEST_PAUSE", 0.02)
    writer = StoreWriter(store)
    writer.start()
    yield writer
    store.mend()
    await writer.stop(1.0)


async def saved(writer: StoreWriter, *saves: Save, must_replicate: bool = False) -> Told:
    """Gives saves to the writer at once, and waits until it has told what came of each."""
    told, all_told = Told(), asyncio.Event()

    def note(outcome: Saved | StoreError) -> None:
        told.append(outcome)
        if len(told) == len(saves):
            all_told.set()

    for save in saves:
        writer.save(save, note, must_replicate=must_replicate)
    await all_told.wait()
    return told


def names(count: int) -> Sequence[str]:
    return [f"s{number:04}" for number in range(count)]


async def test_what_comes_together_goes_together(writer: StoreWriter, store: TroubledStore) -> None:
    """One call for all sessions that are opened in one turn of the loop, and one for all that are saved."""
    epochs = await asyncio.gather(*(writer.create(opening_of(name)) for name in names(20)))
    outcomes = await saved(writer, *(save_of(name, 5) for name in names(20)))

    assert (epochs, outcomes) == ([1] * 20, [Saved.DONE] * 20)
    assert store.calls == [("create", 20), ("save", 20)]


async def test_a_batch_is_not_too_large(writer: StoreWriter, store: TroubledStore) -> None:
    """Those behind it have a call of their own."""
    await asyncio.gather(*(writer.create(opening_of(name)) for name in names(MAX_SAVES + 3)))
    await saved(writer, *(save_of(name, 5) for name in names(MAX_SAVES + 3)))

    assert store.calls == [("create", MAX_SAVES), ("create", 3), ("save", MAX_SAVES), ("save", 3)]


async def test_what_comes_during_a_call_goes_with_the_next(writer: StoreWriter, store: TroubledStore) -> None:
    """One call is under way at a time: the slower the store, the larger the batches."""
    await asyncio.gather(*(writer.create(opening_of(name)) for name in names(9)))
    store.hold()
    first = asyncio.create_task(saved(writer, save_of("s0000", 5)))
    await store.entered.wait()
    others = [asyncio.create_task(saved(writer, save_of(name, 5))) for name in names(9)[1:]]
    await asyncio.sleep(0)
    store.mend()
    await asyncio.gather(first, *others)

    assert store.calls[-2:] == [("save", 1), ("save", 8)]


async def test_each_is_told_its_own(writer: StoreWriter) -> None:
    """One that was taken over is refused, one that the store does not know is gone; the others are stored."""
    await asyncio.gather(*(writer.create(opening_of(name)) for name in ("a", "b")))
    await writer.store.acquire("b")

    assert await saved(writer, save_of("a", 5), save_of("b", 5), save_of("c", 5)) == [
        Saved.DONE,
        Saved.FENCED,
        Saved.GONE,
    ]


async def test_an_id_is_closed_and_opened_again_during_a_call(writer: StoreWriter, store: TroubledStore) -> None:
    """The one goes before the other, as when they come between two calls."""
    await asyncio.gather(*(writer.create(opening_of(name)) for name in ("a", "b")))
    store.hold()
    writer.close("b", 1)
    await store.entered.wait()
    writer.close("a", 1)
    creating = asyncio.create_task(writer.create(opening_of("a")))
    await asyncio.sleep(0)
    store.mend()

    assert await creating > 1


async def test_an_id_in_use_is_told(writer: StoreWriter) -> None:
    """Epoch 0, as the store says."""
    assert await writer.create(opening_of("a")) == 1
    assert await writer.create(opening_of("a")) == 0


async def test_replicas_are_waited_for_if_one_needs_them(writer: StoreWriter, store: TroubledStore) -> None:
    """A batch in which one session must be replicated is; others are not."""
    await saved(writer, opening_of("a"))
    await saved(writer, opening_of("b"), must_replicate=True)

    assert store.replicated == [False, True]


async def test_trouble_is_told_and_passes(writer: StoreWriter, store: TroubledStore) -> None:
    """Everybody waiting hears of the failure; the store is left alone for a while, and up again once it answers."""
    await writer.create(opening_of("a"))
    store.fail()
    outcomes = await saved(writer, save_of("a", 5), save_of("b", 5))
    assert [str(outcome) for outcome in outcomes] == ["it is broken"] * 2
    assert (writer.is_up, writer.may_try(monotonic())) == (False, False)
    with pytest.raises(StoreError, match="it is broken"):
        await writer.create(opening_of("c"))
    store.mend()
    assert await saved(writer, save_of("a", 5)) == [Saved.DONE]

    assert (writer.is_up, writer.may_try(monotonic())) == (True, True)


async def test_the_pause_grows_to_a_limit(writer: StoreWriter, store: TroubledStore) -> None:
    """A store that is gone for long is asked rarely, but not ever more rarely."""
    store.fail()
    for _ in range(5):
        await saved(writer, save_of("a", 5))

    assert not writer.may_try(monotonic())
    assert writer.may_try(monotonic() + store_writer.LONGEST_PAUSE)


async def test_closings_wait_for_the_store(writer: StoreWriter, store: TroubledStore) -> None:
    """A session that ends while the store is gone is closed there when it is back; nobody need ask again."""
    await writer.create(opening_of("a"))
    store.fail()
    writer.close("a", 1)
    await asyncio.wait_for(store.failed.wait(), 10)
    assert writer.is_closing("a")
    store.mend()
    while writer.is_closing("a"):
        await asyncio.sleep(0.001)

    assert await store.read("a") is None
    assert writer.is_up
    assert await saved(writer, save_of("a", 5)) == [Saved.FENCED]


async def test_a_closed_session_comes_after_its_last_checkpoint(writer: StoreWriter, store: TroubledStore) -> None:
    """A save that waits when its session is closed does not bring it back."""
    await writer.create(opening_of("a"))
    outcome = asyncio.create_task(saved(writer, save_of("a", 5)))
    await asyncio.sleep(0)
    writer.close("a", 1)
    await outcome
    await writer.closed("a")

    assert await store.read("a") is None


async def test_who_waits_for_a_closing_is_told_of_one_attempt(writer: StoreWriter, store: TroubledStore) -> None:
    """Whatever comes of it; of one that is not under way at once."""
    await writer.create(opening_of("a"))
    await writer.closed("a")
    store.fail()
    writer.close("a", 1)
    await asyncio.wait_for(writer.closed("a"), 10)

    assert writer.is_closing("a")


async def test_nobody_waits_for_what_was_given_up(writer: StoreWriter, store: TroubledStore) -> None:
    """A session whose opener is gone before the record is made does not stay in the store; others of the batch do."""
    store.hold()
    gone, other = (asyncio.create_task(writer.create(opening_of(name))) for name in ("a", "b"))
    await store.entered.wait()
    gone.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await gone
    store.mend()
    assert await other == 1
    await writer.closed("a")

    assert await store.read("a") is None
    assert await store.read("b") is not None


async def test_an_opening_that_was_not_answered_is_undone(writer: StoreWriter, store: TroubledStore) -> None:
    """A record that was made all the same does not stand in the way of who tries again."""
    store.lose_answers()
    with pytest.raises(StoreError):
        await writer.create(opening_of("a"))
    assert await store.read("a") is not None
    store.mend()

    assert await writer.create(opening_of("a")) == 2


@pytest.mark.parametrize("is_taken_up", [False, True])
async def test_undoing_spares_what_is_not_its_own(
    writer: StoreWriter, store: TroubledStore, *, is_taken_up: bool
) -> None:
    """Neither a record that another opening made, nor one that another server has taken up since, is closed."""
    if is_taken_up:
        store.lose_answers()
    else:
        await store.create([replace(opening_of("a"), head=b"another")])
        store.fail()
    with pytest.raises(StoreError):
        await writer.create(opening_of("a"))
    if is_taken_up:
        await store.acquire("a")
    assert not writer.is_closing("a")
    store.mend()

    assert await writer.create(opening_of("a")) == 0
    assert await store.read("a") is not None


async def test_an_id_is_not_opened_before_it_is_closed(
    writer: StoreWriter, store: TroubledStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the closing of the session that had it would end the new one; even in a store that has forgotten both."""
    await writer.create(opening_of("a"))
    monkeypatch.setattr(store_writer, "FIRST_PAUSE", 60.0)
    writer._pause = 60.0
    store.fail()
    writer.close("a", 1)
    await writer.closed("a")
    with pytest.raises(StoreError, match="it has not closed the session that had this id before"):
        await writer.create(opening_of("a"))
    store.mend()
    store.forget()
    assert await writer.create(opening_of("a")) == 2
    assert not writer.is_closing("a")

    assert await saved(writer, save_of("a", 5, epoch=2)) == [Saved.DONE]


async def test_one_that_cannot_take_its_news_does_not_stop_the_others(writer: StoreWriter) -> None:
    """What goes wrong there is logged; the writing goes on."""

    def refuse(outcome: Saved | StoreError) -> None:
        raise RuntimeError

    writer.save(opening_of("a"), refuse, must_replicate=False)
    assert await saved(writer, opening_of("b")) == [Saved.DONE]
    assert await saved(writer, save_of("a", 5)) == [Saved.DONE]


async def test_a_store_that_cannot_be_closed_does_not_stop_the_stop(
    store: TroubledStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is stopped after it is stopped too."""

    async def refuse() -> None:
        raise StoreError("no answer in time")

    writer = StoreWriter(store)
    writer.start()
    monkeypatch.setattr(store, "stop", refuse)
    await writer.stop(1.0)


async def test_what_waits_is_written_before_the_end(store: TroubledStore) -> None:
    """A stop lets the store have what it was to have; if it does not answer, not for longer than it may take."""
    writer = StoreWriter(store)
    writer.start()
    await writer.create(opening_of("a"))
    told = Told()
    writer.save(save_of("a", 5), told.append, must_replicate=False)
    await writer.stop(10.0)
    assert told == [Saved.DONE]

    writer = StoreWriter(store)
    writer.start()
    store.hold()
    writer.save(save_of("a", 6), told.append, must_replicate=False)
    began = monotonic()
    await writer.stop(0.05)
    assert monotonic() - began < 5
    assert told == [Saved.DONE]


def test_a_call_is_bounded_in_sessions_and_bytes() -> None:
    """What is too large for any call has one of its own."""
    half = MAX_SAVE_BYTES // 2

    assert [first_of_call(sizes) for sizes in ([], [1], [1] * 2 * MAX_SAVES)] == [0, 1, MAX_SAVES]
    assert [first_of_call(sizes) for sizes in ([half] * 3, [3 * half, 1], [1, 3 * half])] == [2, 1, 1]

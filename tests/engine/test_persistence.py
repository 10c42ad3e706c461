"""Sessions of an engine on their way to a store and back, in good times and bad."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from conveyor.engine import checkpointer, engine, persistence, store_writer
from conveyor.engine.checkpoint import decode_state, read_head
from conveyor.engine.durability import Durability, Mode
from conveyor.engine.engine import Engine
from conveyor.engine.engines import Engines
from conveyor.engine.limits import Device, Limits
from conveyor.engine.store_writer import StoreWriter
from conveyor.engine.work import (
    Answer,
    Array,
    Chunk,
    EndReason,
    Generation,
    OpenOptions,
    Residency,
    Sampling,
    SessionView,
    Token,
)
from conveyor.errors import (
    Aborted,
    AlreadyExists,
    ConveyorError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Superseded,
    Unavailable,
)
from conveyor.graph.model_file import model_from_proto
from conveyor.store import LISTED_BYTES, Record
from tests.engine.harness import GREEDY, LOGITS, alone
from tests.engine.stores import TroubledStore
from tests.engine.test_engine import AwaitedSink, Counts
from tests.models import make_context_model, make_model

MODEL = make_model(seed=3)
TEXT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3]
NEVER = 3600.0
SLOW = Durability(Mode.ASYNC, 1_000_000, NEVER)  # stored only when something else makes it due
SYNC = Durability(Mode.SYNC)
HOT = Sampling()


class Served:
    """A server's engines, of one model, on a store that it may share."""

    def __init__(self, store: TroubledStore, proto: onnx.ModelProto, limits: dict[str, Any]) -> None:
        self.store, self.counts, self.writer = store, Counts(), StoreWriter(store)
        limits = {"num_slots": 2, "max_batch": 2, **limits}
        device = Device("cpu", num_threads=1)
        self.engine = Engine(model_from_proto(proto), "lm", 2, Limits(**limits), device, self.counts, self.writer)
        self.engines = Engines([self.engine], self.writer)
        self.sink = AwaitedSink()

    async def open(
        self, session_id: str, durability: Durability = SLOW, contexts: dict[str, Array] | None = None, **options: Any
    ) -> SessionView:
        opening = OpenOptions(session_id, seed=1, durability=durability, **options)
        return await self.engines.open("lm", 0, opening, contexts or {})

    def begin(self, session_id: str, tokens: Sequence[int], **fields: Any) -> AwaitedSink:
        """Submits a chunk, with a sink of its own."""
        sink = AwaitedSink()
        self.engine.submit(Chunk(session_id, {"tokens": np.array(tokens)}, LOGITS, sink, **fields))
        return sink

    async def outcome(self, session_id: str, tokens: Sequence[int], **fields: Any) -> Answer | ConveyorError:
        (outcome,) = await self.begin(session_id, tokens, **fields).answers(1)
        assert isinstance(outcome, Answer | ConveyorError)
        return outcome

    async def step(self, session_id: str, tokens: Sequence[int], **fields: Any) -> Answer:
        outcome = await self.outcome(session_id, tokens, **fields)
        assert isinstance(outcome, Answer), outcome
        return outcome

    async def stored(self, session_id: str, position: int) -> None:
        """Waits until the session is in the store at this position."""
        while self.engine.get(session_id).durable_position != position:
            await asyncio.sleep(0.002)


@asynccontextmanager
async def serving(store: TroubledStore, proto: onnx.ModelProto = MODEL[0], **limits: Any) -> AsyncIterator[Served]:
    """A server that is cut off in the end, as if it crashed."""
    served = Served(store, proto, limits)
    served.writer.start()
    served.engine.start()
    try:
        yield served
    finally:
        await served.engine.stop()
        await served.writer.stop(0.0)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> TroubledStore:
    """A store in whose trouble nobody waits for long."""
    monkeypatch.setattr(store_writer, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(store_writer, "LONGEST_PAUSE", 0.02)
    monkeypatch.setattr(checkpointer, "RETRY_SECONDS", 0.02)
    return TroubledStore()


@pytest.fixture
async def served(store: TroubledStore) -> AsyncIterator[Served]:
    async with serving(store) as served:
        yield served


async def goes_on(store: TroubledStore, session_id: str, position: int, **serve: Any) -> None:
    """Takes the session up elsewhere, and holds its next answer against PyTorch's for the whole text."""
    async with serving(store, **serve) as other:
        await other.engines.holding(session_id)
        assert other.engine.get(session_id).position == position
        answer = await other.step(session_id, TEXT[position:], position=position)
        np.testing.assert_allclose(answer.outputs["logits"], alone(MODEL[1], TEXT)[position:], atol=1e-4)


class TestAsync:
    async def test_it_is_stored_after_so_many_steps(self, served: Served, store: TroubledStore) -> None:
        """Not before; and its answers wait for nothing, and tell from where they would have to be asked for again."""
        view = await served.open("a", Durability(Mode.ASYNC, 8, NEVER))
        assert (view.durable_position, view.epoch) == (0, 1)
        first = await served.step("a", TEXT[:7])
        await asyncio.sleep(0.1)
        assert served.engine.get("a").durable_position == 0
        second = await served.step("a", TEXT[7:8])
        await served.stored("a", 8)
        third = await served.step("a", TEXT[8:9])

        assert [answer.durable_position for answer in (first, second, third)] == [0, 0, 8]
        assert {answer.epoch for answer in (first, second, third)} == {1}
        assert [save.position for save in store.saves] == [8]
        await goes_on(store, "a", 8)

    async def test_it_is_stored_after_so_much_time(self, served: Served, store: TroubledStore) -> None:
        """However few steps, once."""
        await served.open("a", Durability(Mode.ASYNC, 1000, 0.05))
        await served.step("a", TEXT[:3])
        await served.stored("a", 3)
        await asyncio.sleep(0.2)

        assert [save.position for save in store.saves] == [3]
        assert (served.counts.num_stored, served.engine.stats().num_unstored) == (1, 0)
        await goes_on(store, "a", 3)

    async def test_it_is_stored_for_as_long_as_it_lives(self, served: Served, store: TroubledStore) -> None:
        """One that is used goes on though no checkpoint was due since it opened, when its server is lost by then."""
        durability = Durability(Mode.ASYNC, 1_000_000, NEVER)
        view = await served.open("a", durability, idle_timeout=1.2)
        assert view.durability == replace(durability, every_seconds=1.2)  # a longer one would be in vain
        await asyncio.sleep(0.7)
        await served.step("a", TEXT[:3])
        await asyncio.sleep(0.7)

        await goes_on(store, "a", 0)

    async def test_who_takes_it_up_has_it_for_its_whole_idle_timeout(
        self, served: Served, store: TroubledStore
    ) -> None:
        """Though it was stored long before, and does not move before the next server has it."""
        await served.open("a", SYNC, idle_timeout=1.2)
        await served.step("a", TEXT[:3])
        await asyncio.sleep(0.7)
        async with serving(store) as other:
            await other.engines.holding("a")
            await asyncio.sleep(0.7)
            await other.engine.drain(5.0)

        await goes_on(store, "a", 3)

    async def test_trouble_does_not_stop_it(self, served: Served, store: TroubledStore) -> None:
        """It is answered as ever, and stored without being asked once the store is back."""
        await served.open("a", Durability(Mode.ASYNC, 1, NEVER))
        store.fail()
        for position in range(5):
            answer = await served.step("a", TEXT[position : position + 1], position=position)
            assert answer.durable_position == 0
        await asyncio.wait_for(store.failed.wait(), 10)
        assert not served.engines.is_store_up
        store.mend()
        await served.stored("a", 5)

        assert served.engines.is_store_up
        assert served.counts.num_not_stored >= 1
        await goes_on(store, "a", 5)

    async def test_a_hanging_store_does_not_stop_it(self, served: Served, store: TroubledStore) -> None:
        """Nothing that a client of an ASYNC session does waits for the store, but for opening it."""
        await served.open("a", Durability(Mode.ASYNC, 1, NEVER))
        store.hold()
        for position in range(5):
            await served.step("a", TEXT[position : position + 1])
        assert served.engine.get("a").durable_position == 0
        store.mend()
        await served.stored("a", 5)

        assert [save.position for save in store.saves] == [1, 5]


class TestSync:
    async def test_its_answers_wait_until_they_are_stored(self, served: Served, store: TroubledStore) -> None:
        """Those of chunks in flight come in order, each when the store has it."""
        await served.open("a", SYNC)
        store.hold()
        sink = served.begin("a", TEXT[:2])
        await store.entered.wait()
        await asyncio.sleep(0.05)
        assert sink.outcomes == []
        store.mend()
        (answer,) = await sink.answers(1)

        assert (answer.position, served.engine.get("a").durable_position) == (2, 2)
        await goes_on(store, "a", 2)

    async def test_several_in_flight_are_stored_together(
        self, served: Served, store: TroubledStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What has run while a checkpoint is on its way goes with the next, without waiting for the clock."""
        monkeypatch.setattr(engine, "SAVE_INTERVAL", NEVER)
        await asyncio.sleep(0.06)  # the clock has struck once more, as it had begun
        await served.open("a", SYNC)
        store.hold()
        sinks = [served.begin("a", TEXT[:1], position=0, acknowledged=0)]
        await store.entered.wait()
        sinks += [served.begin("a", TEXT[place : place + 1], position=place, acknowledged=0) for place in range(1, 4)]
        while served.engine.get("a").position < 4:
            await asyncio.sleep(0.002)
        store.mend()
        answers = [(await sink.answers(1))[0].position for sink in sinks]

        assert answers == [1, 2, 3, 4]
        assert [save.position for save in store.saves] == [1, 4]
        assert store.replicated == [True, True]

    async def test_trouble_is_told_and_the_retry_is_answered(self, served: Served, store: TroubledStore) -> None:
        """UNAVAILABLE, and then the answer, once and right: the chunk is not run again."""
        await served.open("a", SYNC)
        store.fail()
        failed = await served.outcome("a", TEXT[:5], position=0)
        again = await served.outcome("a", TEXT[:5], position=0)
        assert isinstance(failed, Unavailable)
        assert isinstance(again, Unavailable)
        store.mend()
        await asyncio.sleep(0.05)
        sink = served.begin("a", TEXT[:5], position=0)
        (answer,) = await sink.answers(1)
        await asyncio.sleep(0.05)

        np.testing.assert_allclose(answer.outputs["logits"], alone(MODEL[1], TEXT[:5]), atol=1e-4)
        assert len(sink.outcomes) == 1
        assert (answer.position, len(served.counts.batches), served.engine.stats().num_waiting) == (5, 1, 0)
        await goes_on(store, "a", 5)

    async def test_it_is_stored_without_a_retry(self, served: Served, store: TroubledStore) -> None:
        """A client that gave up finds it there later all the same."""
        await served.open("a", SYNC)
        store.fail()
        assert isinstance(await served.outcome("a", TEXT[:5]), Unavailable)
        store.mend()
        await served.stored("a", 5)

        await goes_on(store, "a", 5)

    async def test_every_token_is_stored_before_it_is_sent(self, served: Served, store: TroubledStore) -> None:
        """A generation does not wait for the store, but nothing of it is told before the store has it."""
        await served.open("a", SYNC)
        store.hold()
        sink = AwaitedSink()
        served.engine.submit(Generation("a", TEXT[:3], 10, sink, GREEDY, position=0))
        await store.entered.wait()
        while served.engine.get("a").position < 13:
            await asyncio.sleep(0.002)
        assert sink.outcomes == []
        store.mend()
        tokens = await sink.answers(10)

        assert [token.position for token in tokens] == list(range(4, 14))
        assert served.engine.get("a").durable_position == 13

    async def test_a_state_that_was_not_read_is_read_again(
        self, served: Served, store: TroubledStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its client is told, and nobody waits for ever; the retry is answered."""

        def refuse(slots: Sequence[int]) -> Any:
            raise RuntimeError

        await served.open("a", SYNC)
        with monkeypatch.context() as patch:
            patch.setattr(served.engine.runner, "read", refuse)
            assert isinstance(await served.outcome("a", TEXT[:2], position=0), Unavailable)

        assert (await served.step("a", TEXT[:2], position=0)).position == 2
        assert served.engine.get("a").durable_position == 2


class TestOwners:
    async def test_a_store_that_restarted_empty_gets_its_sessions_back(
        self, served: Served, store: TroubledStore
    ) -> None:
        """With all that a record has, under the same epoch."""
        for name, durability in (("a", SYNC), ("b", Durability(Mode.ASYNC, 1, NEVER))):
            await served.open(name, durability)
            await served.step(name, TEXT[:3])
        store.forget()
        for name in "ab":
            await served.step(name, TEXT[3:5])
            await served.stored(name, 5)
            record = await store.read(name)
            assert record is not None
            assert (record.epoch, max(record.checkpoints)) == (1, 5)
            assert read_head(record.head)[0].seed == 1

        await goes_on(store, "a", 5)
        await goes_on(store, "b", 5)

    async def test_a_store_that_restarted_empty_gets_sessions_back_that_do_not_move(
        self, served: Served, store: TroubledStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One of them is stored anew now and then, and tells of all."""
        monkeypatch.setattr(persistence, "RENEWAL_SECONDS", 0.05)
        for name, durability in (("a", Durability(Mode.ASYNC, 1, NEVER)), ("b", SYNC)):
            await served.open(name, durability)
            await served.step(name, TEXT[:3])
            await served.stored(name, 3)
        store.forget()
        async with asyncio.timeout(5.0):
            while not (await store.read("a") and await store.read("b")):
                await asyncio.sleep(0.01)
        await served.engine.drain(5.0)

        for name in "ab":
            await goes_on(store, name, 3)

    async def test_a_store_that_restarted_empty_before_a_drain_has_all(
        self, served: Served, store: TroubledStore
    ) -> None:
        """Though nothing has moved since, and nobody has heard of its restart."""
        for name, durability in (("a", Durability(Mode.ASYNC, 1, NEVER)), ("b", SYNC)):
            await served.open(name, durability)
            await served.step(name, TEXT[:3])
            await served.stored(name, 3)
        store.forget()
        await served.engine.drain(5.0)

        for name in "ab":
            await goes_on(store, name, 3)

    async def test_a_session_that_was_taken_over_is_let_go(self, served: Served, store: TroubledStore) -> None:
        """When the store refuses its checkpoint: the stream hears that it moved, waiting work that it may try again."""
        await served.open("a", SYNC)
        await store.acquire("a")
        sink = served.begin("a", TEXT[:3])
        (outcome,) = await sink.answers(1)
        await sink.wait(lambda: bool(sink.ends))

        assert isinstance(outcome, Unavailable)
        assert sink.ends == [("a", EndReason.MOVED, 3)]
        assert (served.counts.num_fenced, "a" in served.engine) == (1, False)
        record = await store.read("a")
        assert record is not None  # it is not closed for the one who has it
        assert (record.epoch, list(record.checkpoints)) == (2, [0])

    async def test_an_owner_that_lost_it_cannot_harm(self, served: Served, store: TroubledStore) -> None:
        """What it stores, and even that it closes the session, is of no effect on the one who took it up."""
        await served.open("a", Durability(Mode.ASYNC, 1, NEVER))
        await served.step("a", TEXT[:3])
        await served.stored("a", 3)
        async with serving(store) as other:
            await other.engines.holding("a")
            await other.step("a", TEXT[3:6], position=3)
            await other.stored("a", 6)
            assert await served.engines.close("a") == 3
            await other.step("a", TEXT[6:8], position=6)
            await other.stored("a", 8)

        await goes_on(store, "a", 8)

    async def test_one_that_is_let_go_while_the_store_is_asked_is_taken_up(
        self, served: Served, store: TroubledStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its client must not hear that it is unknown."""
        await served.open("a", SYNC)
        read = store.read

        async def read_slowly(session_id: str) -> Record | None:
            monkeypatch.setattr(store, "read", read)
            record = await read(session_id)
            await store.acquire(session_id)  # another server has it now, and the next save tells us
            served.begin("a", TEXT[:2])
            while "a" in served.engine:
                await asyncio.sleep(0.002)
            return record

        monkeypatch.setattr(store, "read", read_slowly)
        await served.engines.holding("a", is_doubtful=True)
        assert served.engine.get("a").epoch == 3

    async def test_a_session_is_taken_up_once(self, served: Served, store: TroubledStore) -> None:
        """However many ask for it at a time."""
        await served.open("a", SYNC)
        await served.step("a", TEXT[:3])
        async with serving(store) as other:
            found = await asyncio.gather(*(other.engines.holding("a") for _ in range(5)))
            assert found == [other.engine] * 5
            assert (other.engine.get("a").epoch, other.counts.num_resumed) == (2, 1)

    async def test_trouble_is_told_by_a_server_that_holds_nothing(
        self, store: TroubledStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The store that did not tell of a session counts as down, and is asked until it answers."""
        async with serving(store) as served:
            await served.open("a", SYNC)
        async with serving(store) as other:
            store.fail()
            for _ in range(3):
                with pytest.raises(Unavailable):
                    await other.engines.holding("a")
            assert not other.engines.is_store_up
            store.mend()
            while not other.engines.is_store_up:
                await asyncio.sleep(0.002)
            assert "a" not in other.engine

        assert caplog.messages.count("the store does not answer: it is broken") == 1

    async def test_what_cannot_be_held_is_not_taken(self, served: Served, store: TroubledStore) -> None:
        """A server that is full, or draining, leaves the session with the one that has it."""
        await served.open("a", SYNC)
        await served.step("a", TEXT[:3])
        async with serving(store, max_sessions=1) as full:
            await full.open("mine")
            with pytest.raises(ResourceExhausted):
                await full.engines.holding("a")
            await full.engine.drain(0.0)
            with pytest.raises(Unavailable, match="draining"):
                await full.engines.holding("a")
        assert (await served.step("a", TEXT[3:5], position=3)).epoch == 1

    async def test_a_client_that_cannot_go_on_gets_an_earlier_state(self, served: Served, store: TroubledStore) -> None:
        """The session is taken from the store anew; if that fails, it stays as it is."""
        await served.open("a", SLOW)
        await served.step("a", TEXT[:4])
        await served.step("a", TEXT[4:6])
        store.fail()
        with pytest.raises(Unavailable):
            await served.engines.resume("a", 2, 1)
        store.mend()
        assert (await served.engines.resume("a", 4, 1)).position == 6  # it is sent the kept answer
        view = await served.engines.resume("a", 2, 1)

        assert (view.position, view.epoch) == (0, 2)
        assert EndReason.MOVED in served.counts.ended
        answer = await served.step("a", TEXT[:7], position=0)
        np.testing.assert_allclose(answer.outputs["logits"], alone(MODEL[1], TEXT[:7]), atol=1e-4)

    @pytest.mark.parametrize(("durability", "position"), [(SYNC, 2), (Durability(Mode.ASYNC, 1, NEVER), 0)])
    async def test_what_lies_ahead_of_its_client_goes(
        self, served: Served, store: TroubledStore, durability: Durability, position: int
    ) -> None:
        """A session taken up behind a checkpoint is stored at once, so that nobody comes upon the other way again."""
        await served.open("a", durability)
        for place in range(4):
            await served.step("a", TEXT[place : place + 1], acknowledged=0)
            await served.stored("a", place + 1)
        async with serving(store) as other:
            assert (await other.engines.resume("a", 2, 1)).position == position
            while (record := await store.read("a")) and max(record.checkpoints) > position:
                await asyncio.sleep(0.002)

        await goes_on(store, "a", position)


class TestOpening:
    async def test_an_id_in_the_store_is_in_use(self, served: Served, store: TroubledStore) -> None:
        """Whoever has it; the session that is there is untouched, and there is none here."""
        await served.open("a", SYNC)
        async with serving(store) as other:
            with pytest.raises(AlreadyExists):
                await other.open("a", SYNC)
            assert "a" not in other.engine
        await served.step("a", TEXT[:1], position=0)

    async def test_trouble_opens_nothing(self, served: Served, store: TroubledStore) -> None:
        """UNAVAILABLE, and no session; one without durability needs no store."""
        store.fail()
        with pytest.raises(Unavailable):
            await served.open("a", SYNC)
        assert "a" not in served.engine
        await served.open("b", Durability(Mode.NONE))
        assert (await served.step("b", TEXT[:2])).durable_position is None

    async def test_nobody_finds_a_session_before_it_is_open(self, served: Served, store: TroubledStore) -> None:
        """The store may have another of that id, and who asks for that one must not get this."""
        store.hold()
        opening = asyncio.create_task(served.open("a", SYNC))
        await store.entered.wait()
        with pytest.raises(Unavailable, match="is being opened"):
            served.begin("a", TEXT[:2])
        for ask in (served.engines.holding, served.engines.view, served.engines.close):
            with pytest.raises(Unavailable, match="is being opened"):
                await ask("a")
        store.mend()
        await opening

        assert (await served.step("a", TEXT[:2])).position == 2

    async def test_what_a_drain_ends_while_it_is_opened_is_unavailable(
        self, served: Served, store: TroubledStore
    ) -> None:
        """And leaves its id free: its client opens it elsewhere."""
        store.hold()
        opening = asyncio.create_task(served.open("a", SYNC))
        await store.entered.wait()
        await served.engine.drain(0.05)
        store.mend()
        with pytest.raises(Unavailable, match="has ended while it was opened"):
            await opening
        await served.writer.closed("a")

        async with serving(store) as other:
            await other.open("a", SYNC)

    async def test_without_a_store_there_is_no_durability(self) -> None:
        """FAILED_PRECONDITION, and nothing is open."""
        device = Device("cpu", num_threads=1)
        lone = Engine(model_from_proto(MODEL[0]), "lm", 1, Limits(num_slots=1, max_batch=1), device, Counts())
        lone.start()
        with pytest.raises(FailedPrecondition, match="durability: the server has no store"):
            await Engines([lone]).open("lm", 0, OpenOptions("a", durability=SYNC), {})
        assert "a" not in lone
        await lone.stop()


class TestListing:
    async def test_a_cursor_of_nobody_is_refused(
        self, served: Served, store: TroubledStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A store that takes not just any text says so, and the error has the field's name."""

        async def refuse(count: int, cursor: str = "") -> Any:
            raise ValueError("a cursor of this store is a number")

        monkeypatch.setattr(store, "list", refuse)
        with pytest.raises(InvalidArgument, match="page_token: is not one that this server gave"):
            await served.engines.stored(10, "x", "")


class TestClosing:
    @pytest.mark.parametrize("durability", [SLOW, SYNC])
    async def test_a_closed_session_is_nowhere(
        self, served: Served, store: TroubledStore, durability: Durability
    ) -> None:
        """When its client hears of it; and its id is free."""
        await served.open("a", durability)
        await served.step("a", TEXT[:2])
        assert await served.engines.close("a") == 2
        assert await store.read("a") is None
        with pytest.raises(NotFound):
            await served.engines.holding("a")
        view = await served.open("a", durability)

        assert (view.position, view.epoch) == (0, 2)

    async def test_trouble_keeps_no_session_open(self, served: Served, store: TroubledStore) -> None:
        """It is closed here at once, is not taken up again, and goes from the store when that is back."""
        await served.open("a", SYNC)
        store.fail()
        assert await served.engines.close("a") == 0
        for ask in (served.engines.holding, served.engines.view, served.engines.close):
            with pytest.raises(NotFound):
                await ask("a")
        store.mend()
        while served.writer.is_closing("a"):
            await asyncio.sleep(0.002)

        assert await store.read("a") is None

    async def test_what_comes_late_ends_nothing(self, served: Served, store: TroubledStore) -> None:
        """Of a session that was taken up, or opened anew, since its client asked; neither here nor in the store."""
        await served.open("a", SYNC)
        async with serving(store) as other, serving(store) as third:
            await other.engines.holding("a")
            for late in (other, third):
                with pytest.raises(Superseded) as refusal:
                    await late.engines.close("a", 1)
                assert refusal.value.epoch == 2
            assert await third.engines.close("a", 2) == 0
            await other.open("b", SYNC)
            await other.engines.close("b")
            await other.open("b", SYNC)
            with pytest.raises(Superseded):
                await third.engines.close("b", 1)

            assert (await other.step("b", TEXT[:2])).position == 2

    async def test_who_has_lost_a_session_closes_it_where_it_is(self, served: Served, store: TroubledStore) -> None:
        """A client that has seen it elsewhere ends it for all, whichever server it asks."""
        await served.open("a", SYNC)
        async with serving(store) as other:
            await other.engines.holding("a")
            await other.step("a", TEXT[:2])
            assert await served.engines.close("a", 2) == 2

        assert served.counts.ended == [EndReason.MOVED]
        assert await store.read("a") is None


class TestDraining:
    async def test_every_session_is_stored(self, served: Served, store: TroubledStore) -> None:
        """Those without durability too, and those that never ran; whoever takes up one of these has it to itself."""
        for name, durability in (("a", SLOW), ("b", SYNC), ("c", Durability(Mode.NONE)), ("d", Durability(Mode.NONE))):
            await served.open(name, durability)
        for name in "abc":
            await served.step(name, TEXT[:5])
        await served.engine.drain(10.0)
        assert served.counts.ended == [EndReason.DRAINED] * 4
        async with serving(store) as other:
            await other.engines.holding("c")
            assert await store.read("c") is None or other.writer.is_closing("c")
            assert (other.engine.get("c").epoch, other.engine.get("c").durable_position) == (0, None)

        for name, position in (("a", 5), ("b", 5), ("d", 0)):
            await goes_on(store, name, position)

    async def test_one_that_cannot_be_stored_is_in_nobodys_way(self, served: Served, store: TroubledStore) -> None:
        """The others are, and the drain does not wait for what cannot come."""
        for name in ("a", "b"):
            await served.open(name, Durability(Mode.NONE))
        async with serving(store) as other:
            await other.open("a", SYNC)
        await asyncio.wait_for(served.engine.drain(60.0), 10)

        assert await store.read("b") is not None
        record = await store.read("a")
        assert record is not None
        assert read_head(record.head)[0].durability.mode is Mode.SYNC

    async def test_trouble_with_the_store_is_outlasted(self, served: Served, store: TroubledStore) -> None:
        """What the store did not take is tried again, for as long as a drain may take."""
        await served.open("a", Durability(Mode.NONE))
        await served.step("a", TEXT[:5])
        store.fail()
        draining = asyncio.create_task(served.engine.drain(60.0))
        await store.failed.wait()
        store.mend()
        await draining

        await goes_on(store, "a", 5)

    @pytest.mark.parametrize("durability", [SLOW, SYNC, Durability(Mode.NONE)], ids=["async", "sync", "none"])
    async def test_work_without_end_leaves_time_to_store(
        self, served: Served, store: TroubledStore, durability: Durability
    ) -> None:
        """A generation stops where it is, its client is told to try again, and it goes on elsewhere."""
        await served.open("a", durability)
        sink, rest = AwaitedSink(), AwaitedSink()
        served.engine.submit(Generation("a", TEXT[:3], 10**6, sink, HOT))
        await sink.answers(9)
        await served.engine.drain(0.4)
        *tokens, failure = [outcome for _, outcome in sink.outcomes]
        assert isinstance(failure, Unavailable)
        position = tokens[-1].position
        async with serving(store) as other:
            await other.engines.holding("a", position)
            other.engine.submit(Generation("a", [], 5, rest, HOT, position=position))
            tokens += await rest.answers(5)

        async with serving(TroubledStore()) as whole:
            await whole.open("a")
            whole.engine.submit(Generation("a", TEXT[:3], len(tokens), whole.sink, HOT))
            expected = await whole.sink.answers(len(tokens))
        assert [token.token for token in tokens] == [token.token for token in expected]

    async def test_answers_that_were_lost_are_given_by_the_next(self, served: Served, store: TroubledStore) -> None:
        """To whom it may concern: a client that lacks others than these cannot go on."""
        await served.open("a", Durability(Mode.NONE))
        await served.step("a", TEXT[:2])
        answers = [await served.step("a", TEXT[at : at + 2], position=at, acknowledged=2) for at in (2, 4)]
        await served.engine.drain(10.0)
        async with serving(store) as other:
            with pytest.raises(FailedPrecondition, match="every checkpoint is ahead of the client, which is at 0"):
                await other.engines.holding("a", 0)
            await other.engines.holding("a", 2)
            for at, answer in zip((2, 4), answers, strict=True):
                again = await other.step("a", TEXT[at : at + 2], position=at, acknowledged=2)
                np.testing.assert_array_equal(again.outputs["logits"], answer.outputs["logits"])
            assert other.engine.get("a").position == 6
            assert not other.counts.batches
            await other.step("a", TEXT[6:8], position=6)

    async def test_it_has_one_owner_however_many_take_it_up(
        self, served: Served, store: TroubledStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A server that was slower than another lets it go: from then on the store knows nothing of it."""
        await served.open("a", Durability(Mode.NONE))
        await served.step("a", TEXT[:5])
        await served.engine.drain(10.0)
        close = store.close
        async with serving(store) as slow, serving(store) as quick:

            async def take_first(closings: Sequence[tuple[str, int]]) -> list[bool]:
                monkeypatch.setattr(store, "close", close)
                await quick.engines.holding("a")
                return await close(closings)

            monkeypatch.setattr(store, "close", take_first)
            with pytest.raises(Aborted, match="another server has taken it up"):
                await slow.engines.holding("a")

            assert "a" not in slow.engine
            with pytest.raises(NotFound):
                await slow.engines.holding("a")
            assert (await quick.step("a", TEXT[5:7], position=5)).position == 7

    async def test_a_store_that_is_gone_does_not_hold_it_up(self, served: Served, store: TroubledStore) -> None:
        """Longer than it may take; its sessions are where their last checkpoint is."""
        await served.open("a", Durability(Mode.ASYNC, 2, NEVER))
        await served.open("b", Durability(Mode.NONE))
        await served.step("a", TEXT[:2])
        await served.stored("a", 2)
        await served.step("a", TEXT[2:3])
        store.fail()
        await asyncio.wait_for(served.engine.drain(0.1), 10)
        store.mend()

        assert [served.counts.ended, await store.read("b")] == [[EndReason.DRAINED] * 2, None]
        await goes_on(store, "a", 2)

    async def test_a_store_that_hangs_does_not_hold_it_up(self, served: Served, store: TroubledStore) -> None:
        """Not even while it is asked for the sessions without durability."""
        await served.open("a", Durability(Mode.NONE))
        store.hold()
        await asyncio.wait_for(served.engine.drain(0.1), 10)

        assert served.counts.ended == [EndReason.DRAINED]

    async def test_no_more_are_on_their_way_than_the_store_takes(
        self, store: TroubledStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However many are due at once: the others wait without a copy of their states, and are stored in the end."""
        monkeypatch.setattr(persistence, "MAX_UNDER_WAY", 3)
        async with serving(store) as served:
            for number in range(10):
                await served.open(f"s{number}")
                await served.step(f"s{number}", TEXT[:5])
            store.calls.clear()
            await served.engine.drain(10.0)

        assert sum(number for _, number in store.calls) == 10
        assert max(number for _, number in store.calls) == 3
        await goes_on(store, "s9", 5)


class TestStates:
    async def test_wherever_a_state_is_it_is_stored(self, store: TroubledStore) -> None:
        """In the arena, in host memory after it was spilled, or nowhere yet."""
        async with serving(store, num_slots=1, max_batch=1) as served:
            for name in ("spilled", "resident", "fresh"):
                await served.open(name, SLOW)
            for name in ("spilled", "resident"):
                await served.step(name, TEXT[:5])
            views = {view.session_id: view.residence for view in served.engine.list(9)}
            assert views["spilled"] is Residency.SPILLED
            assert views["resident"] is Residency.RESIDENT
            await served.engine.drain(10.0)

        for name, position in (("spilled", 5), ("resident", 5), ("fresh", 0)):
            await goes_on(store, name, position)

    async def test_sessions_that_come_and_go_are_stored_right(self, store: TroubledStore) -> None:
        """Every step of six sessions that share one slot has its checkpoint, whatever was moved meanwhile."""
        async with serving(store, num_slots=1, max_batch=1) as served:
            names = "abcdef"
            for name in names:
                await served.open(name, Durability(Mode.ASYNC, 1, NEVER))
            for place in range(6):
                await asyncio.gather(*(served.step(name, TEXT[place : place + 1]) for name in names))
            await served.engine.drain(10.0)
            assert served.counts.num_spilled > 0
        for name in names:
            await goes_on(store, name, 6)

    async def test_a_state_that_is_being_spilled_is_waited_for(self, store: TroubledStore) -> None:
        """Forks and exports of it are made when it can be read."""
        async with serving(store, num_slots=1, max_batch=1) as served:
            for name in "ab":
                await served.open(name, SLOW)
            await served.step("a", TEXT[:5])
            session = served.engine._core.table.get("a")
            session.is_leaving = True
            export = asyncio.create_task(served.engines.export("a", 5))
            await asyncio.sleep(0.01)
            assert not export.done()
            session.is_leaving = False
            assert (await export)[1] == 5

    async def test_a_chunk_that_is_under_way_does_not_count(self, served: Served, store: TroubledStore) -> None:
        """A checkpoint is of what was committed."""
        await served.open("a", SYNC)
        await served.step("a", TEXT[:3])
        sink = served.begin("a", TEXT[3:] * 50)
        sealed, position = await served.engines.export("a", 3)
        assert (position, sink.outcomes) == (3, [])
        _, state = served.engines.seal.open(sealed)
        assert decode_state(state, served.engine.persistence.arenas).position == 3

    async def test_contexts_go_with_it(self, store: TroubledStore) -> None:
        """A session that was given a picture goes on with it, whether it has run or not."""
        proto, _ = make_context_model()
        picture = {"picture": np.array([0.5, -1, 2], np.float32)}
        async with AsyncExitStack() as stack:
            served = await stack.enter_async_context(serving(store, proto))
            for name in ("run", "fresh", "whole"):
                await served.open(name, SYNC, picture)
            whole = await served.step("whole", TEXT)
            await served.step("run", TEXT[:6])
            other = await stack.enter_async_context(serving(store, proto))
            for name, position in (("run", 6), ("fresh", 0)):
                await other.engines.holding(name)
                answer = await other.step(name, TEXT[position:], position=position)
                np.testing.assert_allclose(answer.outputs["logits"], whole.outputs["logits"][position:], atol=1e-5)

    async def test_large_contexts_do_not_keep_it_out_of_lists(self, store: TroubledStore) -> None:
        """A list leaves them out, and tells all else."""
        proto, _ = make_context_model(vocabulary_size=LISTED_BYTES)
        async with serving(store, proto) as served:
            for name in "ab":
                await served.open(name, SYNC, {"picture": np.array([0.5, -1, 2], np.float32)})
            assert len((await store.read("a")).head) > LISTED_BYTES
            views, _ = await served.engines.stored(10, "", "lm")

        told = [(view.session_id, view.seed, view.durability.mode, view.epoch) for view in views]
        assert told == [("a", 1, Mode.SYNC, 1), ("b", 1, Mode.SYNC, 1)]

    async def test_a_generation_goes_on(self, served: Served, store: TroubledStore) -> None:
        """Its last token, which has not run, and the tokens that penalties look at are in the checkpoint."""
        penal = Sampling(temperature=0.0, repetition_penalty=2.0)
        for name in ("a", "whole"):
            await served.open(name, SYNC)
        sinks = [AwaitedSink(), AwaitedSink(), AwaitedSink()]
        served.engine.submit(Generation("whole", TEXT[:3], 12, sinks[0], penal))
        served.engine.submit(Generation("a", TEXT[:3], 5, sinks[1], penal))
        whole, first = await sinks[0].answers(12), await sinks[1].answers(5)
        async with serving(store) as other:
            await other.engines.holding("a")
            other.engine.submit(Generation("a", [], 7, sinks[2], penal, position=8))
            rest = await sinks[2].answers(7)

        assert all(isinstance(token, Token) for token in (*whole, *first, *rest))
        assert [token.token for token in (*first, *rest)] == [token.token for token in whole]

"""An engine with its thread and its event loop, as the server uses it."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import onnx
import pytest

from conveyor.engine import engine as engine_module
from conveyor.engine import runs
from conveyor.engine.engine import Engine
from conveyor.engine.feeds import Feeds, Results
from conveyor.engine.limits import Device, Limits
from conveyor.engine.work import (
    Answer,
    BatchRecord,
    Chunk,
    EndReason,
    FinishReason,
    Generation,
    OpenOptions,
    Residency,
    Sink,
    Token,
    Want,
)
from conveyor.errors import Aborted, AlreadyExists, ConveyorError, NotFound, ResourceExhausted, RunFailed, Unavailable
from conveyor.graph.model_file import model_from_proto
from tests.engine.harness import LOGITS, alone
from tests.models import LanguageModel, make_model

MODEL: tuple[onnx.ModelProto, LanguageModel] = make_model(vocabulary_size=20, seed=3)
TEXT = [3, 1, 4, 1, 5, 9, 2, 6]


class AwaitedSink:
    """Keeps outcomes by tag and the number of each flush; `wait` returns once a condition holds after a flush."""

    stays = True

    def __init__(self) -> None:
        self.outcomes: list[tuple[Any, Answer | Token | ConveyorError]] = []
        self.flushed: list[int] = []
        self.ends: list[tuple[str, EndReason, int]] = []
        self._news = asyncio.Event()

    def put(self, tag: Any, outcome: Answer | Token | ConveyorError) -> None:
        self.outcomes.append((tag, outcome))

    def flush(self) -> None:
        self.flushed.append(len(self.outcomes))
        self._news.set()

    def end(self, session_id: str, reason: EndReason, position: int) -> None:
        self.ends.append((session_id, reason, position))

    async def wait(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 60)

    async def answers(self, count: int) -> list[Any]:
        """The first outcomes, once there are so many."""
        await self.wait(lambda: len(self.outcomes) >= count)
        return [outcome for _, outcome in self.outcomes[:count]]


class Counts:
    """Counts what an engine reports."""

    def __init__(self) -> None:
        self.opened = 0
        self.ended: list[EndReason] = []
        self.batches: list[BatchRecord] = []
        self.num_stored = self.num_not_stored = self.num_fenced = self.num_resumed = 0
        self.num_failed = 0
        self.num_spilled = 0
        self.num_restored = 0
        self.refused: list[str] = []
        self.sought: list[int] = []

    def session_opened(self) -> None:
        self.opened += 1

    def session_ended(self, reason: EndReason) -> None:
        self.ended.append(reason)

    def batch_ran(self, record: BatchRecord) -> None:
        self.batches.append(record)

    def run_failed(self) -> None:
        self.num_failed += 1

    def states_spilled(self, num_sessions: int) -> None:
        self.num_spilled += num_sessions

    def states_restored(self, num_sessions: int) -> None:
        self.num_restored += num_sessions

    def work_refused(self, reason: str) -> None:
        self.refused.append(reason)

    def prefix_sought(self, num_tokens: int) -> None:
        self.sought.append(num_tokens)

    def checkpoints_stored(self, num_checkpoints: int, num_bytes: int) -> None:
        self.num_stored += num_checkpoints

    def checkpoints_failed(self, num_checkpoints: int) -> None:
        self.num_not_stored += num_checkpoints

    def session_fenced(self) -> None:
        self.num_fenced += 1

    def session_resumed(self) -> None:
        self.num_resumed += 1


@contextlib.asynccontextmanager
async def running(counts: Counts | None = None, **limits: Any) -> AsyncIterator[Engine]:
    """A started engine of the test model, stopped in the end."""
    model, device = model_from_proto(MODEL[0]), Device("cpu", num_threads=1)
    engine = Engine(model, "lm", 2, Limits(**{"num_slots": 4, "max_batch": 4, **limits}), device, counts or Counts())
    engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with running() as started:
        yield started


@pytest.fixture
async def sink() -> AwaitedSink:
    return AwaitedSink()


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch runs on the event loop, however quick."""
    monkeypatch.setattr(runs, "INLINE_SESSIONS", 0)


def chunk(session_id: str, tokens: list[int], sink: Sink, want: Want = LOGITS, **fields: Any) -> Chunk:
    return Chunk(session_id, {"tokens": np.array(tokens)}, want, sink, **fields)


def opened(engine: Engine, *session_ids: str, **options: Any) -> None:
    for session_id in session_ids:
        engine.open(OpenOptions(session_id=session_id, seed=1, **options))


class Gate:
    """Holds the runner's runs until it is opened."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open, run = threading.Event(), engine.runner.run
        self.entered = asyncio.Event()
        loop = asyncio.get_running_loop()

        def held(feeds: Feeds, results: Results) -> None:
            loop.call_soon_threadsafe(self.entered.set)
            assert self._open.wait(60)
            run(feeds, results)

        monkeypatch.setattr(engine.runner, "run", held)

    def open(self) -> None:
        self._open.set()


class TestSessions:
    async def test_open_get_list_close(self, engine: Engine) -> None:
        """Sessions are told in opening order with all that a client may know, until they are closed."""
        view = engine.open(OpenOptions(session_id="b", seed=7, idle_timeout=60.0))
        opened(engine, "a")

        assert (view.session_id, view.model_name, view.model_version, view.seed) == ("b", "lm", 2, 7)
        assert (view.position, view.residence, view.state_bytes) == (0, Residency.SPILLED, engine.state_bytes)
        assert view.expire_time - view.create_time == pytest.approx(60.0)
        assert [each.session_id for each in engine.list(9)] == ["b", "a"]
        assert "a" in engine
        with pytest.raises(AlreadyExists):
            opened(engine, "a")
        assert engine.close("a").session_id == "a"
        for call in (engine.get, engine.close):
            with pytest.raises(NotFound):
                call("a")
        assert "a" not in engine

    async def test_a_step(self, engine: Engine, sink: AwaitedSink) -> None:
        """A chunk is answered with what PyTorch answers, and the session's view tells where it is."""
        opened(engine, "a")
        engine.submit(chunk("a", TEXT, sink, tag="t"))
        (answer,) = await sink.answers(1)

        np.testing.assert_allclose(answer.outputs["logits"], alone(MODEL[1], TEXT), atol=1e-4)
        assert sink.outcomes[0][0] == "t"
        assert engine.get("a").position == 8
        assert engine.get("a").residence is Residency.RESIDENT

    async def test_limits_are_told(self, sink: AwaitedSink) -> None:
        """Sessions and work beyond the limits are refused, and the reasons counted."""
        counts = Counts()
        async with running(counts, max_sessions=1, max_waiting_chunks=1) as engine:
            opened(engine, "a")
            with pytest.raises(ResourceExhausted):
                opened(engine, "b")
            engine.submit(chunk("a", [1], sink))
            with pytest.raises(ResourceExhausted):
                engine.submit(chunk("a", [1], sink))
            await sink.answers(1)

        assert counts.refused == ["sessions", "queue"]

    async def test_expiry_tells_the_sink(self, monkeypatch: pytest.MonkeyPatch, sink: AwaitedSink) -> None:
        """A session that idles out is ended, and the sink that last stepped it hears of it with its position."""
        monkeypatch.setattr(engine_module, "EXPIRY_INTERVAL", 0.01)
        counts = Counts()
        async with running(counts) as engine:
            opened(engine, "quick", idle_timeout=0.05)
            opened(engine, "slow")
            engine.submit(chunk("quick", [1, 2], sink))
            await sink.wait(lambda: bool(sink.ends))

            assert sink.ends == [("quick", EndReason.IDLE, 2)]
            assert [view.session_id for view in engine.list(9)] == ["slow"]
            assert engine.stats().num_resident == 0
        assert counts.ended == [EndReason.IDLE]


class TestWork:
    @pytest.mark.usefixtures("in_threads")
    async def test_known_prompts(self, sink: AwaitedSink) -> None:
        """Sessions that send the same few prompts, at once and in turns, draw what they draw without a prefix cache."""
        told, counts = [], Counts()
        prompts = [(TEXT * 9)[:length] for length in (40, 25, 72)]
        for max_bytes in (0, 1 << 20):
            async with running(counts, num_slots=2, max_batch=2, prefix_cache_bytes=max_bytes) as engine:
                sinks = [AwaitedSink() for _ in range(9)]
                for number, each in enumerate(sinks):
                    opened(engine, f"s{number}")
                    engine.submit(Generation(f"s{number}", list(prompts[number % 3]), 6, each))
                    if number % 4 == 3:
                        await each.answers(6)
                told.append([[token.token for token in await each.answers(6)] for each in sinks])

        assert told[0] == told[1]
        assert len(counts.sought) == 9
        assert max(counts.sought) == 71

    @pytest.mark.usefixtures("in_threads")
    async def test_one_flush_for_each_batch_and_sink(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch, sink: AwaitedSink
    ) -> None:
        """What one batch gives goes out together: each sink is flushed once, after all its outcomes."""
        gate, other = Gate(engine, monkeypatch), AwaitedSink()
        opened(engine, "a", "b", "c")
        engine.submit(chunk("a", [1], sink))
        engine.submit(chunk("b", [1], sink))
        engine.submit(chunk("c", [1], other))
        gate.open()
        await other.answers(1)

        assert (sink.flushed, other.flushed) == ([2], [1])

    async def test_many_sessions_and_sinks(self, sink: AwaitedSink) -> None:
        """Sessions stepped in turns from two sinks, more than there are slots, all get what PyTorch gives."""
        counts, sinks = Counts(), (sink, AwaitedSink())
        names = [f"s{index}" for index in range(9)]
        async with running(counts, num_slots=2, max_batch=2, max_run_steps=2) as engine:
            opened(engine, *names)
            for start, stop in ((0, 1), (1, 5), (5, 8)):
                for index, name in enumerate(names):
                    engine.submit(chunk(name, TEXT[start:stop], sinks[index % 2], tag=name, position=start))
            for index, each in enumerate(sinks):
                await each.answers(3 * len(names[index::2]))
            stats = engine.stats()

        expected = alone(MODEL[1], TEXT)
        for name in names:
            parts = [o.outputs["logits"] for s in sinks for tag, o in s.outcomes if tag == name]  # type: ignore[union-attr]
            np.testing.assert_allclose(np.concatenate(parts), expected, atol=1e-4)
        assert counts.num_spilled - counts.num_restored == stats.num_spilled > 0
        assert stats.num_resident + stats.num_spilled == 9
        assert sum(record.num_steps for record in counts.batches) == 9 * 8
        assert stats.num_waiting == 0

    @pytest.mark.parametrize(("num_first", "sizes"), [(3, [4]), (1, [1, 1])])
    async def test_a_batch_waits_while_it_grows(self, num_first: int, sizes: list[int], sink: AwaitedSink) -> None:
        """What comes a turn of the loop later is in it; one or two sessions wait for nobody."""
        counts, names = Counts(), [f"s{index}" for index in range(num_first + 1)]
        async with running(counts) as engine:
            opened(engine, *names)
            for name in names[:-1]:
                engine.submit(chunk(name, [1], sink))
            asyncio.get_running_loop().call_soon(engine.submit, chunk(names[-1], [1], sink))
            await sink.answers(len(names))

        assert [record.num_sessions for record in counts.batches] == sizes

    async def test_tokens_come_as_they_are_drawn(self, engine: Engine, sink: AwaitedSink) -> None:
        """A generation holds up neither its own tokens nor anyone else's work until it is done."""
        opened(engine, "a", "b")
        engine.submit(Generation("a", [1], 200, sink))
        await sink.answers(1)
        other = AwaitedSink()
        engine.submit(chunk("b", [1], other))
        await other.answers(1)

        assert len(sink.outcomes) < 200
        await sink.answers(200)
        assert len(sink.flushed) > 100
        assert sink.outcomes[-1][1].finish_reason is FinishReason.LENGTH  # type: ignore[union-attr]

    async def test_a_repeated_chunk_is_answered_at_once(self, engine: Engine, sink: AwaitedSink) -> None:
        """The kept answer comes, flushed, before `submit` returns."""
        opened(engine, "a")
        engine.submit(chunk("a", [1], sink, position=0))
        await sink.answers(1)
        again = AwaitedSink()
        engine.submit(chunk("a", [1], again, tag=5, position=0))

        assert again.outcomes == [(5, sink.outcomes[0][1])]
        assert again.flushed == [1]

    @pytest.mark.usefixtures("in_threads")
    async def test_cancel_during_a_run(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch, sink: AwaitedSink
    ) -> None:
        """Cancelled work is not heard of again; what was to follow it is aborted; the session has not moved."""
        gate = Gate(engine, monkeypatch)
        opened(engine, "a")
        work = chunk("a", [9], sink, tag="cancelled")
        engine.submit(work)
        engine.submit(chunk("a", [9], sink, tag="behind"))
        await gate.entered.wait()
        engine.cancel(work)
        engine.submit(chunk("a", TEXT, sink, tag="after", position=0))
        gate.open()
        behind, after = await sink.answers(2)

        assert isinstance(behind, Aborted)
        np.testing.assert_allclose(after.outputs["logits"], alone(MODEL[1], TEXT), atol=1e-4)

    @pytest.mark.usefixtures("in_threads")
    async def test_detach_during_a_run(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch, sink: AwaitedSink
    ) -> None:
        """A detached sink hears nothing more, not even of its sessions' ends; the sessions live on."""
        gate, gone = Gate(engine, monkeypatch), AwaitedSink()
        opened(engine, "a", "b")
        for tag in range(3):
            engine.submit(chunk("a", [9], gone, tag=tag))
        await gate.entered.wait()
        engine.detach(gone)
        engine.submit(chunk("b", [1], sink))
        gate.open()
        await sink.answers(1)
        engine.submit(chunk("a", TEXT, sink, position=0))
        _, answer = await sink.answers(2)

        assert answer.position == 8
        engine.close("a")
        assert (gone.outcomes, gone.flushed, gone.ends) == ([], [], [])
        assert sink.ends == [("a", EndReason.CLOSED, 8)]


class TestFailure:
    @pytest.mark.parametrize("inline_sessions", [0, 2])
    async def test_a_failed_run_fails_its_chunks_alone(
        self,
        monkeypatch: pytest.MonkeyPatch,
        sink: AwaitedSink,
        inline_sessions: int,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Chunks of a run that raises get the id of the log line that has the cause; their sessions go on as before."""
        monkeypatch.setattr(runs, "INLINE_SESSIONS", inline_sessions)
        counts = Counts()
        async with running(counts, num_slots=1, max_batch=1) as engine:
            opened(engine, "a", "b")
            for name in "ab":
                engine.submit(chunk(name, TEXT[:3], sink))
            await sink.answers(2)
            with monkeypatch.context() as patch:
                patch.setattr(engine.runner, "run", raising)
                engine.submit(chunk("a", [9], sink))
                failure = (await sink.answers(3))[2]
            for name in "ab":
                engine.submit(chunk(name, TEXT[3:], sink, tag=name))
            *_, first, second = await sink.answers(5)

        assert isinstance(failure, RunFailed)
        assert "secret" not in failure.message
        assert caplog.records[-1].error_id in failure.message
        assert "a secret of the device" in caplog.text
        assert counts.num_failed == 1
        for answer in (first, second):
            np.testing.assert_allclose(answer.outputs["logits"], alone(MODEL[1], TEXT)[3:], atol=1e-4)


def raising(feeds: Feeds, results: Results) -> None:
    raise RuntimeError("a secret of the device")


class TestShutdown:
    @pytest.mark.usefixtures("in_threads")
    async def test_drain(self, engine: Engine, monkeypatch: pytest.MonkeyPatch, sink: AwaitedSink) -> None:
        """Draining refuses what is new, finishes what was accepted, then ends every session and says so."""
        gate = Gate(engine, monkeypatch)
        opened(engine, "a", "b")
        engine.submit(chunk("a", TEXT[:2], sink))
        engine.submit(chunk("a", TEXT[2:], sink))
        await gate.entered.wait()
        drain = asyncio.create_task(engine.drain(60))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await engine.start_of({})
        with pytest.raises(Unavailable):
            engine.open(OpenOptions())
        with pytest.raises(Unavailable):
            engine.submit(chunk("b", [1], sink))
        assert not drain.done()
        gate.open()
        await drain

        assert [type(outcome) for _, outcome in sink.outcomes] == [Answer, Answer]
        assert sink.ends == [("a", EndReason.DRAINED, 8)]
        assert engine.list(9) == []

    @pytest.mark.usefixtures("in_threads")
    async def test_a_drain_does_not_wait_for_ever(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch, sink: AwaitedSink
    ) -> None:
        """Work that outlasts the drain's time fails, and the run that it is in harms nobody when it ends."""
        gate = Gate(engine, monkeypatch)
        opened(engine, "a")
        engine.submit(chunk("a", TEXT, sink))
        await gate.entered.wait()
        await engine.drain(0.01)

        assert [type(outcome) for _, outcome in sink.outcomes] == [NotFound]
        gate.open()
        await engine.stop()
        assert engine.stats().num_waiting == 0

    async def test_drain_without_work(self, engine: Engine) -> None:
        """An idle engine drains at once, and may be drained again."""
        opened(engine, "a")
        await engine.drain(60)
        await engine.drain(60)

        assert engine.list(9) == []

    async def test_stop_twice(self, engine: Engine) -> None:
        """Stopping ends the thread; stopping again, or before a start, does nothing."""
        await engine.stop()
        await engine.stop()

        assert engine._pump.is_stopped
        with pytest.raises(Unavailable):
            engine.open(OpenOptions())

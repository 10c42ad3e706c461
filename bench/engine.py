"""The engine in process: sessions that submit their next step as soon as the last is answered, without gRPC."""

import asyncio
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from bench.measurement import Measurement, Watch
from bench.model import NAME, VOCABULARY
from conveyor.engine.engine import Engine
from conveyor.engine.limits import Device, Limits
from conveyor.engine.work import Answer, BatchRecord, Chunk, EndReason, OpenOptions, Token, Want
from conveyor.errors import ConveyorError
from conveyor.graph.model_file import read_model
from conveyor.server import tune_interpreter

TOKENS = [np.array([token]) for token in range(VOCABULARY)]
WANT = Want(top_k=1)


class SilentObserver:
    """Hears everything and says nothing."""

    def session_opened(self) -> None: ...
    def session_ended(self, reason: EndReason) -> None: ...
    def batch_ran(self, record: BatchRecord) -> None: ...
    def run_failed(self) -> None: ...
    def states_spilled(self, num_sessions: int) -> None: ...
    def states_restored(self, num_sessions: int) -> None: ...
    def work_refused(self, reason: str) -> None: ...
    def prefix_sought(self, num_tokens: int) -> None: ...
    def checkpoints_stored(self, num_checkpoints: int, num_bytes: int) -> None: ...
    def checkpoints_failed(self, num_checkpoints: int) -> None: ...
    def session_fenced(self) -> None: ...
    def session_resumed(self) -> None: ...


class InProcess:
    """An engine on one thread, beside the event loop's."""

    def __init__(self, model: Path, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        self.engine = Engine(read_model(model), NAME, 1, limits, Device("cpu", num_threads=1), SilentObserver())
        self._sessions: list[str] = []

    async def start(self) -> None:
        """Starts the engine's thread, in an interpreter set up as a server's."""
        tune_interpreter()
        self.engine.start()

    async def measure(self, count: int, seconds: float) -> Measurement:
        """Steps `count` sessions as fast as answers come."""
        while len(self._sessions) < count:
            self._sessions.append(self.engine.open(OpenOptions()).session_id)
        watch = Watch(seconds)
        sink = _Resubmitter(self.engine, watch)
        for session_id in self._sessions[:count]:
            sink.submit(session_id, self.engine.get(session_id).position)
        await sink.done.wait()
        return watch.measurement()


class _Resubmitter:
    """Answers each outcome with the session's next step, until the time is up."""

    stays = True

    def __init__(self, engine: Engine, watch: Watch) -> None:
        self._engine = engine
        self._watch = watch
        self._num_in_flight = 0
        self._outcomes: list[tuple[float, Answer]] = []
        self.done = asyncio.Event()

    def submit(self, session_id: str, position: int) -> None:
        tokens = {"tokens": TOKENS[position % VOCABULARY]}
        self._engine.submit(Chunk(session_id, tokens, WANT, self, perf_counter(), position))
        self._num_in_flight += 1

    def put(self, tag: Any, outcome: Answer | Token | ConveyorError) -> None:
        if not isinstance(outcome, Answer):
            raise TypeError(f"expected an answer, got {outcome!r}")
        self._outcomes.append((tag, outcome))

    def flush(self) -> None:
        outcomes, self._outcomes = self._outcomes, []
        self._num_in_flight -= len(outcomes)
        for begun, answer in outcomes:
            if self._watch.lap(begun):
                self.submit(answer.session_id, answer.position)
        if not self._num_in_flight:
            self.done.set()

    def end(self, session_id: str, reason: EndReason, position: int) -> None:
        raise RuntimeError(f"session {session_id} has ended: {reason.value}")

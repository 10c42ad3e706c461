"""One `Generate` call: tokens go out as they come, those that are ready together in one message."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from conveyor.engine.engine import Engine
from conveyor.engine.work import Answer, EndReason, Token
from conveyor.errors import ConveyorError, ResourceExhausted
from conveyor.rpc.convert import generate_response, generation_work
from conveyor.rpc.status import Context
from conveyor.rpc.step import deadline_of
from conveyor.telemetry.metrics import ModelMetrics
from conveyor.v1 import generate_pb2

# A client that reads more slowly than the model generates is let this far behind.
MAX_UNREAD_TOKENS = 65_536


class Tokens:
    """A sink that collects tokens until they are taken, and times them. `stop` ends their coming."""

    stays = False

    def __init__(self, metrics: ModelMetrics, stop: Callable[[], None]) -> None:
        self._metrics = metrics
        self._stop = stop
        self._tokens: list[Token] = []
        self._failure: ConveyorError | None = None
        self._news = asyncio.Event()
        self._last = time.perf_counter()
        self._is_first = True

    def put(self, tag: Any, outcome: Answer | Token | ConveyorError) -> None:
        """Takes a token or the failure."""
        if self._failure is not None:
            return
        if isinstance(outcome, Token):
            self._time_token()
            self._tokens.append(outcome)
            if len(self._tokens) == MAX_UNREAD_TOKENS:
                self._give_up()
        elif isinstance(outcome, Exception):
            self._failure = outcome

    def _give_up(self) -> None:
        self._failure = ResourceExhausted("slow_reader", f"{MAX_UNREAD_TOKENS} generated tokens were not read")
        self._metrics.work_refused(self._failure.reason)
        asyncio.get_running_loop().call_soon(self._stop)  # not now: the engine is handing out outcomes

    def _time_token(self) -> None:
        now = time.perf_counter()
        times = self._metrics.first_token if self._is_first else self._metrics.inter_token
        times.observe(now - self._last)
        self._last, self._is_first = now, False

    def flush(self) -> None:
        """Wakes the one who takes."""
        self._news.set()

    def end(self, session_id: str, reason: EndReason, position: int) -> None:
        """A generation that this ends hears of it as its failure."""

    async def take(self) -> list[Token]:
        """The tokens since the last time, at least one.

        Raises:
            ConveyorError: the generation failed after the tokens that were taken, or the client is too slow.
        """
        while not self._tokens and self._failure is None:
            self._news.clear()
            await self._news.wait()
        if not self._tokens and self._failure is not None:
            raise self._failure
        tokens, self._tokens = self._tokens, []
        return tokens


async def run(request: generate_pb2.GenerateRequest, engine: Engine, context: Context, metrics: ModelMetrics) -> None:
    """Generates until the end, or until the client is gone.

    Raises:
        ConveyorError: the generation was refused or failed.
    """
    sink = Tokens(metrics, lambda: engine.cancel(work))
    work = generation_work(request, sink, deadline_of(context))
    engine.submit(work)
    is_last = False
    try:
        while not is_last:
            tokens = await sink.take()
            is_last = tokens[-1].finish_reason is not None
            await context.write(generate_response(tokens, request.top_k_log_probabilities))
    finally:
        if not is_last:
            engine.cancel(work)

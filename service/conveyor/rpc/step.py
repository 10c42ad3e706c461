"""One unary `Step`: the chunk's outcome is the answer of the call."""

import asyncio
import time
from math import inf
from typing import Any

from conveyor.engine.engine import Engine
from conveyor.engine.work import Answer, EndReason, Token
from conveyor.errors import ConveyorError
from conveyor.rpc.convert import chunk_work, fill_result
from conveyor.rpc.status import Context
from conveyor.v1 import step_pb2


class Waiter:
    """A sink for the one outcome of one chunk."""

    stays = False

    def __init__(self) -> None:
        self.outcome: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def put(self, tag: Any, outcome: Answer | Token | ConveyorError) -> None:
        """Ends the wait."""
        if self.outcome.done():
            return
        if isinstance(outcome, Answer):
            self.outcome.set_result(outcome)
        elif isinstance(outcome, Exception):
            self.outcome.set_exception(outcome)

    def flush(self) -> None:
        """Nothing is collected."""

    def end(self, session_id: str, reason: EndReason, position: int) -> None:
        """The next call will be told that there is no such session."""


async def run(message: step_pb2.Chunk, engine: Engine, context: Context, result: step_pb2.StepResult) -> None:
    """Advances one session by one chunk, and fills in what came of it.

    Raises:
        ConveyorError: the chunk was refused or failed.
    """
    waiter = Waiter()
    work = chunk_work(message, engine, waiter, None, deadline_of(context))
    engine.submit(work)
    try:
        answer = await waiter.outcome
    except asyncio.CancelledError:
        engine.cancel(work)
        raise
    result.session_id = message.session_id
    result.request_id = message.request_id
    fill_result(result, answer, work.want.top_k)


def received_of(message: step_pb2.Chunk) -> int | None:
    """The position up to which the client has answers, as far as its chunk tells."""
    if message.HasField("acknowledged_position"):
        return message.acknowledged_position
    return message.position if message.HasField("position") else None


def deadline_of(context: Context) -> float:
    """The call's deadline on the engine's clock."""
    remaining = context.time_remaining()
    return inf if remaining is None else time.monotonic() + remaining

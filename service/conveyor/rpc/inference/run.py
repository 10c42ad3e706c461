"""Runs chunks of several sessions as one: all are answered, or it fails."""

import asyncio
from collections.abc import Mapping

from conveyor.engine.engine import Engine
from conveyor.engine.work import Answer, Array, Chunk, Want
from conveyor.rpc.step import Waiter


async def run(engine: Engine, inputs: Mapping[str, dict[str, Array]], want: Want, deadline: float) -> list[Answer]:
    """Advances each session by its inputs, wherever it is. A model without inputs makes one step.

    Raises:
        ConveyorError: the first refusal or failure; what has not run by then is cancelled.
    """
    waiters = [Waiter() for _ in inputs]
    works = [
        Chunk(session_id, arrays, want, waiter, deadline=deadline, num_steps=0 if arrays else 1)
        for (session_id, arrays), waiter in zip(inputs.items(), waiters, strict=True)
    ]
    try:
        for work in works:
            engine.submit(work)
        return await asyncio.gather(*(waiter.outcome for waiter in waiters))
    except BaseException:
        for work in works:
            engine.cancel(work)
        raise

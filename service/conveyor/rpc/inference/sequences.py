"""Sequences of the Open Inference Protocol, each of which is a session."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from weakref import WeakValueDictionary

from conveyor.engine.engine import Engine
from conveyor.engine.engines import Engines
from conveyor.engine.work import Answer, Array, OpenOptions
from conveyor.errors import InvalidArgument, NotFound
from conveyor.rpc.inference.request import Asked
from conveyor.rpc.inference.run import run


class Sequences:
    """Sequence ID of model NAME is the session `NAME/ID`. Its requests take turns, in the order in which they came."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        # An entry lasts for as long as a request holds the lock or waits for it.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def advance(self, engine: Engine, asked: Asked, deadline: float) -> Answer:
        """Begins the sequence if it is told to, steps it, and ends it if it is told to.

        Raises:
            InvalidArgument: no sequence is named, or it is not open.
            ConveyorError: as the engine. The sequence is as it was; one that was to begin is not open.
        """
        parameters = asked.parameters
        if not parameters.sequence_id:
            raise InvalidArgument(
                "parameters[sequence_id]",
                f"inference request to model '{engine.name}' must specify a non-zero or non-empty correlation ID",
            )
        session_id = f"{engine.name}/{parameters.sequence_id}"
        turn = self._turns.setdefault(session_id, asyncio.Lock())
        async with turn:
            if parameters.is_start:
                await self._begin(engine, session_id, asked.contexts)
            try:
                (answer,) = await run(engine, {session_id: asked.rows[0]}, asked.want, deadline)
            except NotFound:
                raise _not_open(engine, parameters.sequence_id) from None
            except BaseException:
                if parameters.is_start:
                    self._end(engine, session_id)
                raise
            if parameters.is_end:
                self._end(engine, session_id)
            return answer

    async def _begin(self, engine: Engine, session_id: str, contexts: Mapping[str, Array]) -> None:
        self._end(engine, session_id)
        await self._engines.open(engine.name, engine.version, OpenOptions(session_id), contexts)

    @staticmethod
    def _end(engine: Engine, session_id: str) -> None:
        with suppress(NotFound):
            engine.close(session_id)


def _not_open(engine: Engine, sequence_id: str) -> InvalidArgument:
    # In the words that clients of Triton look for.
    return InvalidArgument(
        "parameters[sequence_start]",
        f"inference request for sequence {sequence_id} to model '{engine.name}' must specify the START flag on the "
        "first request of the sequence: it was not begun, has ended, or idled for too long",
    )

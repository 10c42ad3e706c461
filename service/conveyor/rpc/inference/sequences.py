"""Sequences of the Open Inference Protocol, each of which is a session."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from weakref import WeakValueDictionary

from conveyor.engine.durability import NOT_STORED, Mode
from conveyor.engine.engine import Engine
from conveyor.engine.engines import Engines
from conveyor.engine.table import new_session_id
from conveyor.engine.work import Answer, Array, OpenOptions
from conveyor.errors import InvalidArgument, NotFound, Unavailable
from conveyor.rpc.inference.parameters import Parameters
from conveyor.rpc.inference.request import Asked
from conveyor.rpc.inference.run import run


class Sequences:
    """Sequence ID of model NAME is the session `NAME/ID`. Its requests take turns, in the order in which they came.

    Clients do not say where they are, so a sequence must never come back from the store behind an answer that was
    sent: it is stored with every answer, if that is the server's default, or when the server stops in order.
    """

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        is_sync = engines.durability.mode is Mode.SYNC
        self._durability = engines.durability if is_sync else NOT_STORED
        # An entry lasts for as long as a request holds the lock or waits for it.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def engine_of(self, model: str, version: int, parameters: Parameters) -> Engine:
        """The engine that a request is for: its sequence's, which need not be the newest; else one to begin on.

        Raises:
            NotFound: no such model or version is loaded, or it is being unloaded.
        """
        session_id = f"{model}/{parameters.sequence_id}"
        if not parameters.sequence_id:
            return self._engines.to_open(model, version, "", new_session_id())
        if parameters.is_start:
            return self._engines.to_open(model, version, "", session_id)
        if self._engines.is_here(session_id):
            held = self._engines.of_session(session_id)
            if held.name == model and version in (0, held.version):
                return held
        return self._engines.of_model(model, version)

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
                held = await self._holding(engine, session_id)
                answer = await self._step(held, session_id, asked, deadline)
            except NotFound:
                raise _not_open(engine, parameters.sequence_id) from None
            except BaseException:
                if parameters.is_start:
                    await self._end(session_id)
                raise
            if parameters.is_end:
                await self._end(session_id)
            return answer

    async def _begin(self, engine: Engine, session_id: str, contexts: Mapping[str, Array]) -> None:
        await self._end(session_id)
        options = OpenOptions(session_id, durability=self._durability)
        await self._engines.open(engine.name, engine.version, options, contexts)

    async def _holding(self, engine: Engine, session_id: str) -> Engine:
        """The engine that holds the sequence, which is taken from the store if it may be."""
        if session_id in engine:
            return engine
        view = await self._engines.view(session_id)
        if view.model_name != engine.name or view.durability.mode is Mode.ASYNC:
            raise NotFound(f"session_id: {session_id} is no sequence that can be gone on with")
        held = await self._engines.holding(session_id)
        if held.signature != engine.signature:
            # It was read as one to the newest version; the next request of the sequence will be to its own.
            raise Unavailable(f"the sequence was taken up on version {held.version}: send the request again")
        return held

    async def _step(self, engine: Engine, session_id: str, asked: Asked, deadline: float) -> Answer:
        position = engine.get(session_id).position
        try:
            (answer,) = await run(engine, {session_id: asked.rows[0]}, asked.want, deadline)
        except Unavailable:
            if session_id in engine and engine.get(session_id).position != position:
                # The step was taken, but not stored and so not answered: whoever sends it again would take it twice.
                await self._end(session_id)
            raise
        return answer

    async def _end(self, session_id: str) -> None:
        with suppress(NotFound):
            await self._engines.close(session_id)


def _not_open(engine: Engine, sequence_id: str) -> InvalidArgument:
    # In the words that clients of Triton look for.
    return InvalidArgument(
        "parameters[sequence_start]",
        f"inference request for sequence {sequence_id} to model '{engine.name}' must specify the START flag on the "
        "first request of the sequence: it was not begun, has ended, or idled for too long",
    )

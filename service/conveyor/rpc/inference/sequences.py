"""Sequences of the Open Inference Protocol, each of which is a session."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from weakref import WeakValueDictionary

from conveyor.engine.durability import NOT_STORED, Mode
from conveyor.engine.engine import Engine
from conveyor.engine.engines import Engines
from conveyor.engine.table import new_session_id
from conveyor.engine.work import Answer, OpenOptions
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

    @asynccontextmanager
    async def turn(self, model: str, version: int, parameters: Parameters) -> AsyncIterator[Engine]:
        """Waits for a request's turn; gives the engine that it is for: its sequence's, or one to begin on.

        Whatever becomes of a request that begins a sequence, the one that was open under the id has ended: those that
        follow it must not go on with that one.

        Raises:
            NotFound: no such model or version is loaded, or it is being unloaded.
            Unavailable: the store does not answer.
        """
        if not parameters.sequence_id:
            yield self._engines.to_open(model, version, "", new_session_id())
            return
        session_id = f"{model}/{parameters.sequence_id}"
        turn = self._turns.setdefault(session_id, asyncio.Lock())
        async with turn:
            if parameters.is_start:
                await self._end_everywhere(session_id)
                yield self._engines.to_open(model, version, "", session_id)
            else:
                yield await self._holding(session_id, model, version) or self._engines.of_model(model, version)

    async def advance(self, engine: Engine, asked: Asked, deadline: float) -> Answer:
        """Begins the sequence if it is told to, steps it, and ends it if it is told to; in its turn, on its engine.

        Raises:
            InvalidArgument: no sequence is named, or it is not open.
            Unavailable: it has ended because the server drains.
            ConveyorError: as the engine. The sequence is as it was; one that was to begin is not open.
        """
        parameters = asked.parameters
        if not parameters.sequence_id:
            raise InvalidArgument(
                "parameters[sequence_id]",
                f"inference request to model '{engine.name}' must specify a non-zero or non-empty correlation ID",
            )
        session_id = f"{engine.name}/{parameters.sequence_id}"
        if parameters.is_start:
            options = OpenOptions(session_id, durability=self._durability)
            await self._engines.open(engine.name, engine.version, options, asked.contexts)
        try:
            answer = await self._step(engine, session_id, asked, deadline)
        except BaseException as error:
            if parameters.is_start:
                await self._end(session_id)
            if isinstance(error, NotFound):
                engine.check_draining()  # then it has ended here, and may go on elsewhere
                raise _not_open(engine, parameters.sequence_id) from None
            raise
        if parameters.is_end:
            await self._end(session_id)
        return answer

    async def _holding(self, session_id: str, model: str, version: int) -> Engine | None:
        """The engine that holds the sequence, which is taken from the store if it may be; None if it is not open."""
        if self._engines.is_here(session_id):
            held = self._engines.of_session(session_id)
            return held if held.name == model and version in (0, held.version) else None
        try:
            view = await self._engines.view(session_id)
            is_another = view.model_name != model or version not in (0, view.model_version)
            if is_another or view.durability.mode is Mode.ASYNC:
                return None
            return await self._engines.holding(session_id)
        except NotFound:
            return None

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

    async def _end_everywhere(self, session_id: str) -> None:
        """Ends what is open here, and then what is in the store all the same: another server has had it since."""
        with suppress(NotFound):
            for _ in range(2):
                await self._engines.close(session_id)


def _not_open(engine: Engine, sequence_id: str) -> InvalidArgument:
    # In the words that clients of Triton look for.
    return InvalidArgument(
        "parameters[sequence_start]",
        f"inference request for sequence {sequence_id} to model '{engine.name}' must specify the START flag on the "
        "first request of the sequence: it was not begun, has ended, or idled for too long",
    )

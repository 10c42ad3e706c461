"""All loaded models, and what is done with sessions over all of them and the store."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from secrets import token_bytes
from typing import TYPE_CHECKING

from conveyor.engine.catalog import Catalog
from conveyor.engine.checkpoint import CheckpointError, Head, State, read_head, start_from
from conveyor.engine.durability import NOT_STORED, Durability
from conveyor.engine.recovery import Recovery
from conveyor.engine.seal import Seal
from conveyor.engine.store_writer import StoreWriter
from conveyor.engine.table import new_session_id
from conveyor.engine.work import Array, OpenOptions, SessionView, Start
from conveyor.errors import AlreadyExists, FailedPrecondition, InvalidArgument, Superseded

if TYPE_CHECKING:
    from conveyor.engine.engine import Engine


class Engines(Catalog):
    """All sessions of a server, whichever engine or store holds them."""

    def __init__(
        self,
        engines: Iterable["Engine"] = (),
        writer: StoreWriter | None = None,
        seal: Seal | None = None,
        durability: Durability = NOT_STORED,
    ) -> None:
        super().__init__(engines)
        self.recovery = Recovery(writer, self.engine_for) if writer else None
        self._writer = writer
        self.seal = seal or Seal(token_bytes())
        self.durability = durability if writer else NOT_STORED  # of sessions that do not say
        # Loads a version that is not loaded, for a session that was left on it. Raises FailedPrecondition.
        self.bring: Callable[[str, int], Awaitable[None]] | None = None

    @property
    def is_store_up(self) -> bool:
        """False while the store does not answer."""
        return self._writer is None or self._writer.is_up

    async def holding(
        self, session_id: str, received: int | None = None, epoch: int = 0, *, is_doubtful: bool = False
    ) -> "Engine":
        """The engine that holds a session, which is taken from the store if need be.

        A client with the answers up to `received` has seen the session at `epoch`. If it `is_doubtful` whether another
        server has had the session since, the store is asked.

        Raises:
            ConveyorError: as `Recovery.resume`.
        """
        if self.recovery is not None and self.recovery.is_taking(session_id):
            return await self.recovery.resume(session_id, received, epoch)
        for engine in self._engines:
            if session_id in engine:
                held = engine.epoch_of(session_id)
                newest = epoch
                if held and is_doubtful and self.recovery is not None:
                    newest = max(epoch, await self.recovery.epoch_of(session_id))
                if session_id in engine and not 0 < engine.epoch_of(session_id) < newest:
                    return engine
                break  # another server has had it since
        if self.recovery is None:
            return self.of_session(session_id)  # which, or whose methods, say that it is unknown
        return await self.recovery.resume(session_id, received, epoch)

    def asks_again(self, session_id: str, position: int | None) -> bool:
        """See `Engine.asks_again`; False for a session that is not here."""
        return any(session_id in engine and engine.asks_again(session_id, position) for engine in self._engines)

    async def view(self, session_id: str) -> SessionView:
        """A session as it is now, here or in the store. Raises NotFound, Unavailable."""
        if self.recovery is None or self.is_here(session_id):
            return self.of_session(session_id).get(session_id)
        return await self.recovery.view(session_id)

    async def close(self, session_id: str, epoch: int = 0) -> int:
        """Ends a session at its client's wish, here or in the store, and returns its position.

        Its client has seen it at `epoch`, 0 if it does not say.

        Raises:
            NotFound: neither has it; Superseded: it has another epoch than the client knows.
            Unavailable: the store does not answer.
        """
        if self._writer is None or self.recovery is None:
            return self.of_session(session_id).close(session_id).position
        if not self.is_here(session_id):
            return await self.recovery.close(session_id, epoch)
        engine = self.of_session(session_id)
        held = engine.epoch_of(session_id)
        if 0 < epoch < held:
            raise Superseded(held)
        if 0 < held < epoch:  # another server has had it since
            engine.let_go(session_id)
            return await self.recovery.close(session_id, epoch)
        position = engine.close(session_id).position
        await self._writer.closed(session_id)  # before the client hears of it, or another server could take it up
        return position

    async def stored(self, count: int, cursor: str, model_name: str) -> tuple[list[SessionView], str]:
        """About `count` of the store's sessions, and the next cursor.

        Raises:
            FailedPrecondition: there is no store; InvalidArgument: the cursor; Unavailable: it does not answer.
        """
        if self.recovery is None:
            raise FailedPrecondition("stored: the server has no store")
        views, cursor = await self.recovery.list(count, cursor)
        return [view for view in views if model_name in ("", view.model_name)], cursor

    async def resume(self, session_id: str, received: int | None, epoch: int) -> SessionView:
        """The session to go on with after a loss: as it is here, or, if its client could not go on, from the store.

        A client that has seen no epoch cannot tell a server that lost the session without knowing: the store can.
        """
        engine = await self.holding(session_id, received, epoch, is_doubtful=not epoch)
        can_go_on = received is None or engine.answers_from(session_id, received)
        if not can_go_on and self.recovery is not None and engine.epoch_of(session_id):
            engine = await self.recovery.resume(session_id, received, epoch)
        return engine.get(session_id)

    async def open(
        self, model_name: str, version: int, options: OpenOptions, contexts: Mapping[str, Array], alias: str = ""
    ) -> SessionView:
        """Opens a session; its id is unique over all models.

        Raises:
            NotFound: the model; AlreadyExists: the id; and whatever `to_open`, `Engine.start_of`, `open` and `store`
                raise.
        """
        if options.session_id is None:
            options = replace(options, session_id=new_session_id())  # its version depends on it
        engine = self.to_open(model_name, version, alias, options.session_id or "")
        return await self._open(engine, options, await engine.start_of(contexts))

    async def _open(self, engine: "Engine", options: OpenOptions, start: Start) -> SessionView:
        if options.session_id is not None and self.is_here(options.session_id):
            raise AlreadyExists(f"session {options.session_id!r} is open")
        session_id = engine.open(options, start).session_id
        await engine.store(session_id, options.durability or self.durability)
        return engine.get(session_id)

    async def fork(self, session_id: str, position: int | None, options: OpenOptions) -> SessionView:
        """Opens a session where another is. What `options` leave open is as in the other.

        Raises:
            NotFound, WrongPosition: of the other; and whatever `open` raises.
        """
        engine = await self.holding(session_id)
        head, state = await engine.state_of(session_id, position)
        options = replace(options, idle_timeout=head.idle_timeout, durability=options.durability or head.durability)
        return await self._open_from(engine, options, head, state)

    async def export(self, session_id: str, position: int | None) -> tuple[bytes, int]:
        """A session's sealed checkpoint, and the position that it holds. Raises NotFound, WrongPosition."""
        engine = await self.holding(session_id)
        head, state = await engine.state_of(session_id, position)
        return self.seal.close(engine.persistence.encode_head(head), engine.persistence.encode(state)), state.position

    async def import_(self, sealed: bytes, options: OpenOptions) -> SessionView:
        """Opens a session from a sealed checkpoint.

        Raises:
            InvalidArgument, FailedPrecondition: it cannot be used here; and whatever `open` raises.
        """
        raw_head, raw_state = self.seal.open(sealed)
        try:
            head, contexts = read_head(raw_head)
            engine = await self.engine_for(head)
            head, state = engine.persistence.decode(head, contexts, raw_state)
        except CheckpointError as error:
            raise InvalidArgument("checkpoint", str(error)) from None
        return await self._open_from(engine, options, head, state)

    async def _open_from(self, engine: "Engine", options: OpenOptions, head: Head, state: State) -> SessionView:
        if options.seed is None:
            options = replace(options, seed=head.seed)
        return await self._open(engine, options, start_from(head, state))

    async def engine_for(self, head: Head) -> "Engine":
        """The engine of the very model that a checkpoint is of.

        Raises:
            FailedPrecondition: it is not loaded here, and cannot be.
        """
        key = (head.model, head.version)
        if key not in self._by_version and self.bring is not None:
            await self.bring(*key)
        engine = self._by_version.get(key)
        if engine is None:
            raise FailedPrecondition(f"checkpoint: model {head.model} version {head.version} is not loaded here")
        if engine.fingerprint != head.fingerprint:
            raise FailedPrecondition(
                f"checkpoint: it is of another {head.model} version {head.version}: its fingerprint is "
                f"{head.fingerprint}, that of the loaded one {engine.fingerprint}"
            )
        return engine

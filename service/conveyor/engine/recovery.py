"""Sessions that are in the store and in no process here: found, read, and taken up."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from conveyor.engine.checkpoint import CheckpointError, Head, State, read_head, read_listed_head
from conveyor.engine.durability import Mode, Stored
from conveyor.engine.store_writer import StoreWriter, store_answers
from conveyor.engine.work import Residency, SessionView
from conveyor.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound, Superseded
from conveyor.store import Record, Save

if TYPE_CHECKING:
    from conveyor.engine.engine import Engine

log = logging.getLogger("conveyor.engine")

# What a paused server finds when it wakes up was given up long since: the news of that lies behind the request. So much
# later it has been read, and the session is left to whom its client has asked meanwhile.
SECOND_THOUGHT = 0.05
MOST_THOUGHTS = 20


class Taking:
    """A session that is being taken up; nothing has happened to it while that `may_stop`."""

    task: "asyncio.Task[Engine]"

    def __init__(self) -> None:
        self.num_waiting = 0
        self.may_stop = True


class Recovery:
    """Takes sessions up, each once however many ask for it. `engine_for` raises FailedPrecondition if there is none."""

    def __init__(self, writer: StoreWriter, engine_for: Callable[[Head], "Awaitable[Engine]"]) -> None:
        self._writer = writer
        self._engine_for = engine_for
        self._under_way: dict[str, Taking] = {}

    async def resume(self, session_id: str, received: int | None, epoch: int = 0) -> "Engine":
        """Takes a session up at its newest checkpoint that is not ahead of `received`.

        Its client has seen it at `epoch`, 0 if it does not say. A request that was under way for long, as one that a
        paused server finds when it wakes up, must not take the session from the server that has had it since.

        Raises:
            NotFound: the store does not have it.
            Superseded: it has another epoch than the client knows; who knows it may take the session.
            FailedPrecondition: every checkpoint is ahead of the client, damaged, or of a model that is not loaded here.
            ResourceExhausted: as many sessions are open as may be.
            Unavailable: the store does not answer, or the server is draining.
        """
        taking = self._under_way.get(session_id)
        if taking is None:
            taking = self._under_way[session_id] = Taking()
            taking.task = asyncio.ensure_future(self._resume(taking, session_id, received, epoch))
            taking.task.add_done_callback(lambda _: self._forget(session_id, taking))
        taking.num_waiting += 1
        try:
            return await asyncio.shield(taking.task)
        finally:
            taking.num_waiting -= 1
            if not taking.num_waiting and taking.may_stop:
                self._forget(session_id, taking)
                taking.task.cancel()

    def is_taking(self, session_id: str) -> bool:
        """True of a session that is being taken up."""
        return session_id in self._under_way

    def _forget(self, session_id: str, taking: "Taking") -> None:
        if self._under_way.get(session_id) is taking:
            del self._under_way[session_id]

    async def _resume(self, taking: "Taking", session_id: str, received: int | None, epoch: int) -> "Engine":
        # Looked at first: whoever takes a session that it cannot serve would take it from the one that can.
        found = await self._read(session_id)
        if 0 < epoch < found.epoch:
            raise Superseded(found.epoch)
        engine, raw_head, contexts = await self._check(found)
        _choose(found, received, engine, raw_head, contexts)
        engine.check_room(session_id)
        await _think_again()
        taking.may_stop = False
        with self._writer.asked():
            record = await self._writer.store.acquire(session_id, found.epoch, _seconds_of(raw_head))
            if record is None:
                raise Aborted("session_id: it was saved, closed or taken up this moment")
            engine, raw_head, contexts = await self._check(record)
            head, state = _choose(record, received, engine, raw_head, contexts)
            await self._drop_ahead(record, head, state)
        checkpoints = sorted(position for position in record.checkpoints if position <= state.position)
        stored = Stored(head.durability, record.epoch, checkpoints)
        engine.adopt(session_id, head, state, stored)
        if head.durability.mode is Mode.NONE:  # stored when a server stopped in order, and now as mortal as before
            await engine.claim(session_id, self._writer.take_out(session_id, record.epoch))
        log.info("session resumed", extra={"session_id": session_id, "position": state.position, "epoch": record.epoch})
        return engine

    async def _drop_ahead(self, record: Record, head: Head, state: State) -> None:
        """Drops the checkpoints that the client has not come to: it may go on otherwise than it did.

        Later they would be taken for the state after what it sends now.
        """
        position = state.position
        if max(record.checkpoints) > position:
            checkpoint = record.checkpoints[position]
            save = Save(record.session_id, record.epoch, position, checkpoint, 0, _seconds_of(head))
            await self._writer.store.save([save], must_replicate=True)

    async def view(self, session_id: str) -> SessionView:
        """A stored session as it is told to the outside. Raises NotFound, Unavailable."""
        record = await self._read(session_id)
        return view_of(record, _head_of(record)[0])

    async def epoch_of(self, session_id: str) -> int:
        """The epoch of a stored session; 0 if the store does not have it. Raises Unavailable."""
        try:
            return (await self._read(session_id)).epoch
        except NotFound:
            return 0

    async def close(self, session_id: str, epoch: int = 0) -> int:
        """Ends a session that is in the store, damaged or not; returns its position.

        Raises:
            NotFound, Superseded, Unavailable: as `resume`.
            Aborted: it was taken up this moment.
        """
        record = await self._read(session_id)
        if 0 < epoch < record.epoch:
            raise Superseded(record.epoch)
        await _think_again()  # the client may have given up long since, and opened another under this id
        with self._writer.asked():
            (was_closed,) = await self._writer.store.close([(session_id, record.epoch)])
        if not was_closed:
            raise Aborted("session_id: it was taken up this moment")
        return max(record.checkpoints, default=0)

    async def list(self, count: int, cursor: str) -> tuple[list[SessionView], str]:
        """About `count` stored sessions, but for damaged ones, and the next cursor.

        Raises:
            InvalidArgument: the cursor is not the store's; Unavailable: it does not answer.
        """
        try:
            with store_answers():
                records, cursor = await self._writer.store.list(count, cursor)
        except ValueError:
            raise InvalidArgument("page_token", "is not one that this server gave") from None
        return [view for record in records if (view := _listed(record))], cursor

    async def _read(self, session_id: str) -> Record:
        if self._writer.is_closing(session_id):
            raise _not_found(session_id)
        with self._writer.asked():
            record = await self._writer.store.read(session_id)
        if record is None:
            raise _not_found(session_id)
        return record

    async def _check(self, record: Record) -> tuple["Engine", Head, bytes]:
        head, contexts = _head_of(record)
        return await self._engine_for(head), head, contexts


def _seconds_of(head: Head) -> float:
    """How long the record of a session lives that is used now, and not saved again."""
    return min(head.idle_timeout, max(1.0, head.lifetime_ends - time.time())) + head.durability.lag


async def _think_again() -> None:
    """Waits for a while that nothing has stretched: else this process stood still, and has news to read."""
    for _ in range(MOST_THOUGHTS):
        begun = time.monotonic()
        await asyncio.sleep(SECOND_THOUGHT)
        if time.monotonic() - begun < 2 * SECOND_THOUGHT:
            return


def _not_found(session_id: str) -> NotFound:
    return NotFound(f"session_id: no session {session_id!r} is open: unknown, expired or closed")


def _choose(record: Record, received: int | None, engine: "Engine", head: Head, contexts: bytes) -> tuple[Head, State]:
    """The newest sound checkpoint that the client is not behind, or that has the answers which it lacks."""
    problem = f"every checkpoint is ahead of the client, which is at {received}: {sorted(record.checkpoints)}"
    for position in sorted(record.checkpoints, reverse=True):
        try:
            whole, state = engine.persistence.decode(head, contexts, record.checkpoints[position])
        except CheckpointError as error:
            if received is None or position <= received:
                problem = f"the checkpoint at {position} cannot be used: {error}"
            log.warning("session %s: the checkpoint at %d cannot be used: %s", record.session_id, position, error)
        else:
            if received is None or state.answers_from(received):
                return whole, state
    raise FailedPrecondition(f"session_id: {problem}")


def _head_of(record: Record) -> tuple[Head, bytes]:
    try:
        return read_head(record.head)
    except CheckpointError as error:
        raise FailedPrecondition(f"session_id: the stored session cannot be used: {error}") from None


def _listed(record: Record) -> SessionView | None:
    """A record of a list as a session; None if it is damaged."""
    try:
        return view_of(record, read_listed_head(record.head))
    except CheckpointError as error:
        log.warning("session %s: the stored session cannot be used: %s", record.session_id, error)
        return None


def view_of(record: Record, head: Head) -> SessionView:
    """A record as a session."""
    newest = max(record.checkpoints, default=0)
    return SessionView(
        record.session_id,
        head.model,
        head.version,
        newest,
        head.seed,
        create_time=head.opened,
        expire_time=min(head.lifetime_ends, time.time() + head.idle_timeout),
        residence=Residency.STORED,
        state_bytes=0,
        durability=head.durability,
        durable_position=newest,
        epoch=record.epoch,
    )

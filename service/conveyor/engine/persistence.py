"""One engine's sessions on their way to the store, and back."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import compress
from math import inf
from operator import not_
from time import monotonic, time

from conveyor.engine.checkpoint import Head, State, decode_rows, decode_state, encode_head, encode_state
from conveyor.engine.core import Core
from conveyor.engine.durability import Durability, Mode, Stored
from conveyor.engine.runner import Runner
from conveyor.engine.session import Session
from conveyor.engine.store_writer import StoreWriter, first_of_call, no_answer, store_answers
from conveyor.engine.work import EndReason, Observer
from conveyor.errors import Aborted, AlreadyExists, FailedPrecondition, Unavailable
from conveyor.store import Save, Saved, Store, StoreError

log = logging.getLogger("conveyor.engine")

# Checkpoints of an engine that may be on their way: two calls of the store. More would only wait, take memory, and be
# read from the arena at once while all else waits.
MAX_UNDER_WAY = 1024
POLL_SECONDS = 0.01
RETRY_SECONDS = 0.1  # until a record that the store did not make at a drain is tried again
RENEWAL_SECONDS = 5.0  # between two times of storing everything anew, and of finding out whether that is needed


class Persistence:
    """Reads states out of the arenas, makes checkpoints of them, and tells the core what the store made of these.

    States are read on the event loop: a session's slot is written by no run until the session has another. `deliver` is
    called when outcomes or ends of sessions have come up.
    """

    def __init__(
        self,
        model: tuple[str, int, str],
        core: Core,
        runner: Runner,
        writer: StoreWriter | None,
        observer: Observer,
        deliver: Callable[[], None],
    ) -> None:
        self._name, self._version, self._fingerprint = model
        self._core = core
        self._runner = runner
        self.arenas = runner.graph.arenas
        self._context_arenas = runner.graph.contexts
        self._writer = writer
        self._observer = observer
        self._deliver = deliver
        self._is_delivery_due = False
        self._num_under_way = 0
        self._renewed, self._looked = -inf, monotonic()

    @property
    def has_store(self) -> bool:
        """True if sessions may be stored."""
        return self._writer is not None

    # Out of the arenas.

    def states_of(self, sessions: Sequence[Session]) -> list[State]:
        """Where the sessions are now: what has been committed, whatever runs.

        Raises:
            Aborted: one is being spilled; it can be read in a moment.
        """
        if any(session.is_leaving for session in sessions):
            raise Aborted("session_id: its state is being moved")
        residence = self._core.residence
        rows = [residence.on_host(session) for session in sessions]
        places = [
            place for place, session in enumerate(sessions) if rows[place] is None and residence.is_in_arena(session)
        ]
        if places:
            read = self._runner.read([sessions[place].slot for place in places])
            for place, row in zip(places, read, strict=True):
                rows[place] = row
        return [
            State(session.position, session.pending, None if session.seen is None else tuple(session.seen), row)
            for session, row in zip(sessions, rows, strict=True)
        ]

    def head_of(self, session: Session) -> Head:
        """What never changes in the session."""
        offset = time() - monotonic()
        return Head(
            self._name,
            self._version,
            self._fingerprint,
            session.seed,
            session.opened + offset,
            session.idle_timeout,
            session.lifetime_ends + offset,
            session.stored.durability if session.stored else Durability(),
            session.contexts,
        )

    def encode_head(self, head: Head) -> bytes:
        """A head as bytes."""
        return encode_head(head, self._context_arenas)

    def encode(self, state: State) -> bytes:
        """A state as bytes."""
        return encode_state(state, self.arenas)

    def decode(self, head: Head, contexts: bytes, state: bytes) -> tuple[Head, State]:
        """A head with its contexts, and a state.

        Raises:
            CheckpointError: they are damaged, or not this model's.
        """
        rows = decode_rows(contexts, self._context_arenas) if contexts else None
        return replace(head, contexts=rows), decode_state(state, self.arenas)

    # To the store.

    async def create(self, session: Session, durability: Durability) -> None:
        """Makes the session's record, with a checkpoint of where it is.

        Raises:
            AlreadyExists: the store has a session of that id.
            FailedPrecondition: there is no store.
            Unavailable: it does not answer.
        """
        if self._writer is None:
            raise FailedPrecondition("durability: the server has no store")
        # Or the record could be gone before the session's next checkpoint.
        lag = min(durability.every_seconds, session.idle_timeout)
        session.stored = Stored(replace(durability, every_seconds=lag))
        state = self.states_of([session])[0]
        if durability.mode is Mode.NONE:  # at a drain: there is no checkpoint before this one to answer again from
            state = replace(state, kept=session.unread, drawn=session.drawn)
        save = self._save_of(session, session.stored, state, monotonic(), self.encode_head(self.head_of(session)))
        with store_answers():
            epoch = await self._writer.create(save, must_replicate=durability.mode is Mode.SYNC)
        if not epoch:
            raise AlreadyExists(f"session_id: {session.session_id} is open")
        session.stored.epoch = epoch
        session.stored.add(state.position, 0, 0)
        if not session.is_open:  # it has ended meanwhile
            self._writer.close(session.session_id, epoch)

    def save_due(self, now: float) -> None:
        """Sends the checkpoints that are due on their way."""
        if self._writer is None or not self._core.checkpointer.is_waiting(now):
            return
        most = MAX_UNDER_WAY - self._num_under_way
        if most <= 0:
            return
        sessions = self._core.checkpointer.take(now, most)
        problem = "the store does not answer"
        if self._writer.may_try(now):
            try:
                self._save(sessions, now)
            except Exception:  # whatever the runtime raises, the sessions must go on
                log.exception("the states of %d sessions were not read", len(sessions))
                problem = "the session's state was not read"
            else:
                return
        for session in sessions:
            self._core.not_stored(session, Unavailable(problem), now)
        self._deliver_soon()

    def _save(self, sessions: Sequence[Session], now: float, *, with_heads: bool = False) -> None:
        if self._writer is None or not sessions:
            return
        for session, state in zip(sessions, self.states_of(sessions), strict=True):
            stored = session.stored
            if stored is None:
                continue
            head = self.encode_head(self.head_of(session)) if with_heads else None
            save = self._save_of(session, stored, state, now, head)
            self._core.checkpointer.taken(session)
            self._num_under_way += 1
            self._writer.save(save, partial(self._done, session, save), must_replicate=stored.is_sync)

    def _save_of(self, session: Session, stored: Stored, state: State, now: float, head: bytes | None) -> Save:
        oldest, latest = stored.kept(session.acknowledged)
        return Save(
            session.session_id,
            stored.epoch,
            state.position,
            self.encode(state),
            oldest,
            max(1.0, session.expires - now) + stored.durability.lag,
            head,
            latest,
        )

    def _done(self, session: Session, save: Save, outcome: Saved | StoreError) -> None:
        """What came of a checkpoint."""
        self._num_under_way -= 1
        self._deliver_soon()
        if not session.is_open or session.stored is None:
            return
        now = monotonic()
        if outcome is Saved.DONE:
            self._observer.checkpoints_stored(1, len(save.checkpoint))
            self._core.stored(session, save)
        elif outcome is Saved.FENCED:
            self._observer.session_fenced()
            self._core.end(session, EndReason.MOVED)
        elif outcome is Saved.GONE:
            session.stored.checkpoints = []
            session.stored.end()
            self._save_anew(session, now)
            self._renew_others(now)
        else:
            self._observer.checkpoints_failed(1)
            self._core.not_stored(session, no_answer(outcome), now)

    def look(self, now: float) -> None:
        """Has one session stored anew now and then: if nothing moves, nobody hears that the store has lost all."""
        if now < self._looked + RENEWAL_SECONDS:
            return
        self._looked = now
        if one := next(filter(_is_still, self._core.table), None):
            self._core.checkpointer.renew(one, now)

    def _renew_others(self, now: float) -> None:
        """A store that has lost one session may have started empty: those that do not move are stored anew too."""
        if now >= self._renewed + RENEWAL_SECONDS:
            self._renew_still(now)

    def _renew_still(self, now: float) -> None:
        self._renewed = now
        for other in self._core.table:
            if other.stored is not None and _is_still(other):
                other.stored.checkpoints = []
                self._core.checkpointer.renew(other, now)

    def _save_anew(self, session: Session, now: float) -> None:
        """The store has lost the session, and gets it back."""
        if session.is_leaving:
            self._core.not_stored(session, Unavailable("the store has lost the session"), now)
        else:
            self._save([session], now, with_heads=True)

    def close(self, session: Session, reason: EndReason) -> None:
        """Takes an ended session out of the store, unless it may go on, here or elsewhere."""
        stored = session.stored
        if self._writer is None or stored is None or not stored.epoch:
            return
        if reason not in (EndReason.DRAINED, EndReason.MOVED, EndReason.UNLOADED):
            self._writer.close(session.session_id, stored.epoch)

    async def store_all(self, seconds: float) -> None:
        """Stores every session, those without durability too, for at most so long.

        A run may be under way, but work may not: nothing moves on.
        """
        if self._writer is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._settled()
                await self._miss_none(self._writer.store)
                sessions = list(self._core.table)
                moved = [session for session in sessions if session.stored is not None and _is_unsaved(session)]
                for session in moved:
                    self._core.checkpointer.insist(session)
                await self._create_all([session for session in sessions if session.stored is None])
                await self._saved(moved)
        if lost := sum(map(_is_unsaved, self._core.table)):
            log.error("%d sessions could not be stored in time: they are where their last checkpoint is", lost)

    async def _settled(self) -> None:
        """Waits until no session may turn out to be another server's."""
        while any(session.is_opening for session in self._core.table):  # noqa: ASYNC110 - two round trips at most
            await asyncio.sleep(POLL_SECONDS)

    async def _miss_none(self, store: Store) -> None:
        """Asks for one session, if there is one that need not be stored. If the store has lost it, all are unsaved."""
        one = next(filter(_is_still, self._core.table), None)
        with contextlib.suppress(StoreError):
            if one is not None and await store.read(one.session_id) is None:
                self._renew_still(monotonic())

    async def _create_all(self, sessions: Sequence[Session]) -> None:
        """Makes records of sessions that had none, again and again for those that the store did not take."""
        waiting = deque(sessions)
        while waiting:
            some = [waiting.popleft() for _ in range(first_of_call(map(self._num_bytes, waiting)))]
            is_over = await asyncio.gather(*map(self._create_drained, some))
            if not all(is_over):
                waiting.extend(compress(some, map(not_, is_over)))
                await asyncio.sleep(RETRY_SECONDS)

    def _num_bytes(self, session: Session) -> int:
        """About what the session takes in the store."""
        states = sum(arena.row_bytes for arena in self.arenas)
        return states + sum(kept.num_bytes for kept in session.unread)

    async def _saved(self, sessions: Sequence[Session]) -> None:
        """Waits until all these are in the store."""
        for session in sessions:
            while _is_unsaved(session):
                self.save_due(monotonic())
                await asyncio.sleep(POLL_SECONDS)

    async def _create_drained(self, session: Session) -> bool:
        """Makes the record of a session without durability; False if the store may yet take it."""
        try:
            await self.create(session, Durability(Mode.NONE))
        except (Aborted, AlreadyExists, Unavailable) as error:  # Aborted: it was out of time during a run
            session.stored = None
            return isinstance(error, AlreadyExists)
        return True

    def _deliver_soon(self) -> None:
        # Once for all that one call of the store brings.
        if not self._is_delivery_due:
            self._is_delivery_due = True
            asyncio.get_running_loop().call_soon(self._deliver_now)

    def _deliver_now(self) -> None:
        self._is_delivery_due = False
        self.save_due(monotonic())  # what waited for a write to be over need not wait for the clock
        self._deliver()


def _is_still(session: Session) -> bool:
    """True if the store should have it, and is not being told of it."""
    stored = session.stored
    return stored is not None and stored.newest is not None and stored.writing is None


def _is_unsaved(session: Session) -> bool:
    stored = session.stored
    return session.is_open and (stored is None or stored.newest != session.position)

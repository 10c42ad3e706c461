"""Which sessions' states are in the arena, where, and who must leave to let others in. Pure.

Every session that runs needs two slots: the one that holds its state, and one for its job to write to. On success the
job's slot becomes the session's and the old one is free again.
"""

from collections.abc import Iterator

from conveyor.engine.job import Job
from conveyor.engine.scheduler import Batch
from conveyor.engine.session import Session
from conveyor.engine.slots import SlotPool
from conveyor.engine.spilled import Rows, SpilledStates


class Residence:
    """Slots of all sessions of a model, and the store of those that have none."""

    def __init__(self, num_slots: int, num_context_slots: int, initial: Rows) -> None:
        self.slots = SlotPool(num_slots)
        self.context_slots = SlotPool(num_context_slots)
        self.spilled = SpilledStates()
        self._initial = initial
        self._resident: dict[Session, None] = {}  # least recently used first

    @property
    def num_resident(self) -> int:
        return len(self._resident)

    def has_room(self, num_sessions: int) -> bool:
        """True if any so many sessions can run without another leaving."""
        return self.slots.num_free >= 2 * num_sessions

    def plan(self) -> "Plan":
        """Starts choosing the sessions of the next batch."""
        return Plan(self.slots.num_free, self._victims())

    def _victims(self) -> Iterator[Session]:
        """Sessions that may leave, least recently used first; those with waiting work only after all others."""
        leavable = [s for s in self._resident if not s.is_running and not (s.jobs and s.jobs[0].has_started)]
        yield from sorted(leavable, key=lambda session: bool(session.jobs))

    def settle(self, batch: Batch, victims: list[Session]) -> None:
        """Gives every job of the batch its slots, taking those of the victims as far as they are needed."""
        starting = [job for job in batch.jobs if not (job.slot and job.session.slot)]
        if (
            starting
            and len(starting) <= self.slots.num_free
            and all(job.session.slot and job.rows is None for job in starting)
        ):
            for job, slot in zip(starting, self.slots.take_many(len(starting)), strict=True):
                job.slot = slot
        else:
            self._settle_each(starting, batch, victims)

    def _settle_each(self, starting: list[Job], batch: Batch, victims: list[Session]) -> None:
        for job in starting:
            session = job.session
            if not session.slot:
                session.slot = self._take(batch, victims)
                session.is_entering = True
                stored = self.spilled.get(session.session_id)
                batch.restores.append((session, stored or session.initial or self._initial))
                batch.num_returning += stored is not None
                self._resident[session] = None
                if session.contexts is not None:
                    session.context_slot = self.context_slots.take()
                    batch.contexts.append(session)
            if not job.slot:
                job.slot = self._take(batch, victims)
            if job.rows is not None:
                batch.known.append((job, job.rows))
                job.rows = None

    def _take(self, batch: Batch, victims: list[Session]) -> int:
        if not self.slots.num_free:
            victim = victims.pop(0)
            # Out of every line until the run has read its state: the run reads before it writes.
            victim.is_running = victim.is_leaving = True
            batch.spills.append(victim)
            return victim.slot
        return self.slots.take()

    def confirm(self, batch: Batch, spilled: list[Rows]) -> None:
        """After a run: its victims' states are in the store, its restored sessions' no longer."""
        self._leave(batch, spilled)
        for session, _ in batch.restores:
            session.is_entering = False
            session.initial = None
            self.spilled.drop(session.session_id)

    def revoke(self, batch: Batch, spilled: list[Rows]) -> None:
        """After a failed run: victims whose states were not read keep their slots, others and the restored do not."""
        if spilled:
            self._leave(batch, spilled)
        kept = {victim.slot for victim in batch.spills}
        for victim in batch.spills:
            victim.is_running = victim.is_leaving = False
        for job in batch.jobs:
            self._give_unless(kept, job.slot)
            job.slot = 0
        for session, _ in batch.restores:
            session.is_entering = False
            self._give_unless(kept, session.slot)
            session.slot = 0
            self._leave_arena(session)

    def _leave(self, batch: Batch, spilled: list[Rows]) -> None:
        for victim, rows in zip(batch.spills, spilled, strict=True):
            self._leave_arena(victim)
            victim.slot = 0
            victim.is_running = victim.is_leaving = False
            if victim.is_open:
                self.spilled.put(victim.session_id, rows)

    def on_host(self, session: Session) -> Rows | None:
        """The session's state if it is in host memory. None: in the arena if `is_in_arena`, or else the initial one."""
        return self.spilled.get(session.session_id) or session.initial

    def is_in_arena(self, session: Session) -> bool:
        """True if the session's slot holds its state, and will until a later batch is settled."""
        return session.slot != 0 and not session.is_entering and not session.is_leaving

    def _give_unless(self, kept: set[int], slot: int) -> None:
        if slot and slot not in kept:
            self.slots.give(slot)

    def commit(self, job: Job) -> None:
        """Makes the state that the job wrote the session's."""
        session = job.session
        self.slots.give(session.slot)
        session.slot, job.slot = job.slot, 0
        self._resident.pop(session)
        self._resident[session] = None

    def release(self, job: Job) -> None:
        """Frees what the job wrote; the session's state stays as it was."""
        if job.slot:
            self.slots.give(job.slot)
            job.slot = 0

    def forget(self, session: Session) -> None:
        """Forgets the stored state of a session that ends during a run: its id may be opened again before `evict`."""
        self.spilled.drop(session.session_id)

    def evict(self, session: Session) -> None:
        """Forgets the state of a session that has ended, and that no run holds."""
        if session.slot:
            self.slots.give(session.slot)
            session.slot = 0
        self._leave_arena(session)
        self.spilled.drop(session.session_id)
        session.contexts = session.initial = None  # the table's heap of deadlines may hold the session for long

    def _leave_arena(self, session: Session) -> None:
        self._resident.pop(session, None)
        if session.context_slot:
            self.context_slots.give(session.context_slot)
            session.context_slot = 0


class Plan:
    """Counts the slots that a batch will need, and whose they will be."""

    def __init__(self, num_free: int, victims: Iterator[Session]) -> None:
        self._num_free = num_free
        self._candidates = victims
        self.victims: list[Session] = []
        self._admitted: set[Session] = set()

    def admit(self, session: Session) -> bool:
        """True if the session can be in the batch; then its slots are reserved."""
        needed = (not session.slot) + (not session.jobs[0].slot)
        if session in self.victims:
            return False
        self._admitted.add(session)
        while self._num_free < needed and (victim := self._next_victim()):
            self.victims.append(victim)
            self._num_free += 1
        if self._num_free < needed:
            self._admitted.discard(session)
            return False
        self._num_free -= needed
        return True

    def _next_victim(self) -> Session | None:
        return next((session for session in self._candidates if session not in self._admitted), None)

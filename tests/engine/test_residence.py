"""Who holds which slots of the arena, whatever happens to the sessions."""

from collections import deque
from itertools import count
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from conveyor.engine.job import ChunkJob, Job
from conveyor.engine.residence import Residence
from conveyor.engine.scheduler import Batch
from conveyor.engine.session import Session
from conveyor.engine.work import Array, Chunk, Want
from tests.engine.harness import ListSink

INITIAL = {"float32": np.array([-1])}
KNOWN = {"float32": np.array([-2])}


def session_of(name: str) -> Session:
    return Session(name, 0, 0.0, 10.0, 10.0, 0.0)


def give_work(session: Session) -> ChunkJob:
    job = ChunkJob(session, Chunk(session.session_id, {}, Want(), ListSink()), None, 3, 0.0)
    session.jobs.append(job)
    return job


def take_in(residence: Residence, *sessions: Session) -> Batch:
    """Plans and settles a batch of new work for these sessions, all of which must fit."""
    plan = residence.plan()
    for session in sessions:
        give_work(session)
        assert plan.admit(session)
    batch = Batch([session.jobs[0] for session in sessions], [3] * len(sessions), 3)
    residence.settle(batch, plan.victims)
    return batch


def run(residence: Residence, *sessions: Session) -> Batch:
    """As `take_in`, and the run succeeds."""
    batch = take_in(residence, *sessions)
    residence.confirm(batch, [{"float32": np.array([victim.slot])} for victim in batch.spills])
    for job in batch.jobs:
        residence.commit(job)
        job.session.jobs.clear()
    return batch


def test_a_job_writes_to_a_slot_of_its_own() -> None:
    """A running session has two slots: its state's, restored from the initial state at first, and its job's."""
    residence, session = Residence(4, 4, INITIAL), session_of("a")
    batch = take_in(residence, session)
    before, written = session.slot, batch.jobs[0].slot

    assert 0 < before != written > 0
    assert batch.restores == [(session, INITIAL)]
    residence.confirm(batch, [])
    residence.commit(batch.jobs[0])
    assert (session.slot, batch.jobs[0].slot) == (written, 0)
    assert residence.slots.num_free == 3


def test_the_least_recently_used_leave_first() -> None:
    """The session that ran longest ago is spilled; running again saves a session."""
    residence = Residence(4, 4, INITIAL)
    first, second, third, new = (session_of(name) for name in ("a", "b", "c", "d"))
    for session in (first, second, third, first):
        run(residence, session)

    assert run(residence, new).spills == [second]
    assert residence.num_resident == 3
    assert second.slot == 0
    assert residence.spilled.get("b") is not None


def test_sessions_with_work_leave_last() -> None:
    """A session with waiting work stays while one without can leave, however long ago it ran."""
    residence = Residence(4, 4, INITIAL)
    sessions = [session_of(name) for name in ("a", "b", "c")]
    for session in sessions:
        run(residence, session)
    give_work(sessions[0])
    give_work(sessions[1])

    assert run(residence, session_of("d")).spills == [sessions[2]]


def test_running_and_half_done_sessions_never_leave() -> None:
    """A session that is running, or half way through a chunk, cannot be spilled; then others must wait."""
    residence, session, other = Residence(3, 3, INITIAL), session_of("a"), session_of("b")
    batch = take_in(residence, session)
    session.is_running = True
    give_work(other)
    assert not residence.plan().admit(other)
    session.is_running = False
    batch.jobs[0].num_done = 1
    assert not residence.plan().admit(other)
    residence.confirm(batch, [])
    residence.commit(batch.jobs[0])
    session.jobs.clear()
    assert residence.plan().admit(other)


def test_who_is_admitted_is_no_victim() -> None:
    """Sessions of one batch do not take each other's slots, and a victim is not admitted to its own batch."""
    residence = Residence(4, 4, INITIAL)
    old, new, newer = (session_of(name) for name in ("a", "b", "c"))
    for session in (old, new, newer):
        run(residence, session)
    for session in (stranger := session_of("d"), old, new, newer):
        give_work(session)
    plan = residence.plan()

    assert [plan.admit(session) for session in (stranger, old, newer)] == [True, False, True]
    assert plan.victims == [old, new]


def test_a_known_state_goes_to_the_job() -> None:
    """A job that begins after known steps is given their state once; the session's own is where it was."""
    residence, session = Residence(4, 4, INITIAL), session_of("a")
    run(residence, session)
    slot, plan, job = session.slot, residence.plan(), give_work(session)
    job.rows = KNOWN
    batch = Batch([job], [3], 3)
    assert plan.admit(session)
    residence.settle(batch, plan.victims)

    assert (batch.known, batch.restores, job.rows) == ([(job, KNOWN)], [], None)
    assert (session.slot, bool(job.slot)) == (slot, True)


def test_a_spilled_state_comes_back() -> None:
    """A session that was spilled is restored with the rows that were read out of its slot, which are then dropped."""
    residence, first, second = Residence(2, 2, INITIAL), session_of("a"), session_of("b")
    run(residence, first)
    slot = first.slot
    run(residence, second)
    batch = take_in(residence, first)

    assert batch.restores == [(first, {"float32": np.array([slot])})]
    assert residence.spilled.get("a") is not None
    residence.confirm(batch, [{"float32": np.array([second.slot])}])
    assert residence.spilled.get("a") is None
    assert residence.spilled.get("b") is not None


class World:
    """Sessions, a residence, and an arena in which each row is the history of who wrote to it."""

    def __init__(self, num_slots: int) -> None:
        self.residence = Residence(num_slots, num_slots, INITIAL)
        self.arena: dict[int, Array] = {}
        self.sessions: list[Session] = []
        self.expected: dict[Session, int] = {}
        self.running: deque[Batch] = deque()
        self.fresh: set[Job] = set()  # jobs that are to begin after known steps
        self.values = count(1)

    def open(self) -> None:
        session = session_of(f"s{next(self.values)}")
        self.sessions.append(session)
        self.expected[session] = -1

    def start(self, picks: list[int], *, known: bool = False) -> None:
        chosen: list[Session] = []
        plan = self.residence.plan()
        for index in picks:
            session = self.sessions[index % len(self.sessions)] if self.sessions else None
            if session is None or session.is_running or session in chosen:
                continue
            if not session.jobs:
                job = give_work(session)
                if known:
                    job.num_done, job.rows = 1, KNOWN
                    self.fresh.add(job)
            if plan.admit(session):
                chosen.append(session)
        if not chosen:
            return
        batch = Batch([session.jobs[0] for session in chosen], [3] * len(chosen), 3)
        for session in chosen:
            session.is_running = True
        self.residence.settle(batch, plan.victims)
        self.running.append(batch)

    def start_known(self, picks: list[int]) -> None:
        self.start(picks, known=True)

    def finish(self, outcome: str) -> None:
        """Ends the oldest run: "done", "half" (its jobs go on), "lost" (fails at its end) or "unread" (at once)."""
        if not self.running:
            return
        batch = self.running.popleft()
        spilled = [] if outcome == "unread" else self.simulate(batch)
        if outcome in ("lost", "unread"):
            self.residence.revoke(batch, spilled)
        else:
            self.residence.confirm(batch, spilled)
        for job in batch.jobs:
            job.session.is_running = False
            if outcome == "half":
                job.num_done += 1
                continue
            job.session.jobs.clear()
            if outcome == "done":
                self.residence.commit(job)
                self.expected[job.session] = int(self.arena[job.session.slot][0])
            else:
                self.residence.release(job)
        for victim in batch.spills:
            if not victim.is_open:
                self.residence.evict(victim)

    def simulate(self, batch: Batch) -> list[dict[str, Array]]:
        """Reads the victims' rows, writes the restored, then what the jobs write: in the order of a run."""
        spilled = [{"float32": self.arena[victim.slot]} for victim in batch.spills]
        for session, rows in batch.restores:
            self.arena[session.slot] = rows["float32"]
        for job, rows in batch.known:
            self.arena[job.slot] = rows["float32"]
        for job in batch.jobs:
            start = job.slot if job.num_done else job.session.slot
            if not job.num_done:
                assert int(self.arena[start][0]) == self.expected[job.session], "another session's state"
            elif job in self.fresh:
                assert int(self.arena[start][0]) == -2, "another state than the known one"
            self.fresh.discard(job)
            self.arena[job.slot] = np.array([next(self.values)])
        return spilled

    def close(self, index: int) -> None:
        if not self.sessions:
            return
        session = self.sessions[index % len(self.sessions)]
        if session.is_running and any(job.session is session for batch in self.running for job in batch.jobs):
            return
        self.sessions.remove(session)
        session.is_open = False
        for job in session.jobs:
            self.residence.release(job)
        if session.is_running:
            self.residence.forget(session)
        else:
            self.residence.evict(session)

    def check(self) -> None:
        """Every slot is free, or belongs to exactly one session or job."""
        leaving = {victim for batch in self.running for victim in batch.spills}
        owned = [session.slot for session in self.sessions if session.slot and session not in leaving]
        owned += [victim.slot for victim in leaving if not self.is_taken(victim)]
        owned += [job.slot for session in self.sessions for job in session.jobs if job.slot]
        slots = [*owned, *self.residence.slots._free]
        assert sorted(slots) == list(range(1, self.residence.slots.num_slots + 1))
        for session in self.sessions:
            if session.slot and not session.is_running:
                assert int(self.arena[session.slot][0]) == self.expected[session]
            elif not session.slot:
                rows = self.residence.spilled.get(session.session_id) or INITIAL
                assert int(rows["float32"][0]) == self.expected[session]

    def is_taken(self, victim: Session) -> bool:
        """While it is being spilled, a victim's slot belongs to who takes it."""
        jobs = [job for batch in self.running for job in batch.jobs]
        return any(victim.slot in (job.slot, job.session.slot) for job in jobs)


indexes = st.integers(0, 20)
events = st.one_of(
    st.just(("open",)),
    st.tuples(st.just("start"), st.lists(indexes, min_size=1, max_size=4)),
    st.tuples(st.just("start"), st.lists(indexes, min_size=1, max_size=4)),
    st.tuples(st.just("start_known"), st.lists(indexes, min_size=1, max_size=4)),
    st.tuples(st.just("finish"), st.sampled_from(["done", "done", "half", "lost", "unread"])),
    st.tuples(st.just("finish"), st.just("done")),
    st.tuples(st.just("close"), indexes),
)


@settings(max_examples=150)
@given(num_slots=st.integers(2, 7), program=st.lists(events, max_size=50))
def test_every_slot_has_one_owner_and_no_state_is_lost(num_slots: int, program: list[tuple[Any, ...]]) -> None:
    """Through any runs, failures and closings, slots are owned once and each session keeps the state it was given."""
    world = World(num_slots)
    for _ in range(3):
        world.open()
    for name, *arguments in program:
        getattr(world, name)(*arguments)
        world.check()
    while world.running:
        world.finish("done")
        world.check()
    for session in list(world.sessions):
        world.close(0)
        assert not session.is_open
    assert world.residence.slots.num_free == num_slots
    assert len(world.residence.spilled) == 0
    assert world.residence.num_resident == 0

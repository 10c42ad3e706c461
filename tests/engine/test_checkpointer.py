"""Which sessions are stored when. The clock is an argument."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conveyor.engine.checkpointer import MIN_TIMERS, RETRY_SECONDS, Checkpointer
from conveyor.engine.durability import Durability, Mode, Stored
from conveyor.engine.session import Session

ASYNC, SYNC = Mode.ASYNC, Mode.SYNC


def session_of(mode: Mode = ASYNC, every_steps: int = 10, every_seconds: float = 2.0, **fields: Any) -> Session:
    """An open session that is stored at position 0."""
    session = Session("a", seed=1, opened=0.0, idle_timeout=60.0, lifetime_ends=1e9, last_used=0.0, **fields)
    session.stored = Stored(Durability(mode, every_steps, every_seconds), epoch=1, checkpoints=[0])
    return session


class Writes:
    """A checkpointer, and the writes that it asks for."""

    def __init__(self) -> None:
        self.checkpointer = Checkpointer()
        self.positions: list[int] = []  # that were taken

    def move(self, session: Session, num_steps: int, now: float) -> None:
        session.position += num_steps
        self.checkpointer.advanced(session, now)

    def take(self, session: Session, now: float) -> bool:
        """Begins a write, if it is time for one."""
        taken = self.checkpointer.take(now, 9)
        if taken:
            assert taken == [session]
            self.positions.append(session.position)
            self.checkpointer.taken(session)
        return bool(taken)

    @staticmethod
    def done(session: Session) -> None:
        """The write of last is in the store."""
        stored = session.stored
        assert stored is not None
        assert stored.writing is not None
        position, stored.writing = stored.writing, None
        stored.add(position, *stored.kept(0))


@pytest.fixture
def writes() -> Writes:
    return Writes()


def test_a_session_without_durability_is_left_alone(writes: Writes) -> None:
    """However far it goes."""
    session = session_of()
    session.stored = None
    writes.move(session, 1000, 0.0)

    assert not writes.checkpointer.is_waiting(1e6)
    assert writes.checkpointer.take(1e6, 9) == []


def test_steps_make_it_due(writes: Writes) -> None:
    """As many as its durability allows since the last checkpoint, and not one before."""
    session = session_of(every_steps=10)
    writes.move(session, 9, 0.0)
    assert not writes.take(session, 0.0)
    writes.move(session, 1, 0.1)
    assert writes.take(session, 0.1)
    writes.done(session)
    writes.move(session, 9, 0.2)
    assert not writes.take(session, 0.2)
    writes.move(session, 3, 0.3)
    assert writes.take(session, 0.3)

    assert writes.positions == [10, 22]


def test_time_makes_it_due(writes: Writes) -> None:
    """Counted from the first step that is not stored: those after it do not put it off."""
    session = session_of(every_seconds=2.0)
    for second in (1.0, 1.5, 2.0, 2.5, 2.9):
        writes.move(session, 1, second)
        assert not writes.take(session, second)
    assert not writes.checkpointer.is_waiting(2.99)
    assert writes.checkpointer.is_waiting(3.0)
    assert writes.take(session, 3.0)
    writes.done(session)

    assert not writes.take(session, 100.0)


def test_a_sync_session_is_due_at_once(writes: Writes) -> None:
    """Each step of it."""
    session = session_of(SYNC)
    for step in range(3):
        writes.move(session, 1, float(step))
        assert writes.take(session, float(step))
        writes.done(session)

    assert writes.positions == [1, 2, 3]


def test_one_write_is_under_way(writes: Writes) -> None:
    """What comes meanwhile is stored by one more, as soon as the first is over."""
    session = session_of(SYNC)
    writes.move(session, 1, 0.0)
    assert writes.take(session, 0.0)
    for _ in range(5):
        writes.move(session, 1, 0.1)
        assert not writes.take(session, 0.1)
    writes.done(session)
    assert writes.take(session, 0.2)
    writes.done(session)

    assert not writes.take(session, 100.0)
    assert writes.positions == [1, 6]


def test_steps_are_counted_from_the_write_that_is_under_way(writes: Writes) -> None:
    """A slow store does not make a session due again for steps that it is just being given."""
    session = session_of(every_steps=10)
    writes.move(session, 10, 0.0)
    assert writes.take(session, 0.0)
    writes.move(session, 3, 0.1)
    writes.done(session)

    assert not writes.take(session, 0.2)
    assert writes.take(session, 2.1)  # the three have waited long enough


def test_a_failure_is_tried_again(writes: Writes) -> None:
    """In a while, however long the session's own time is; and no sooner, unless it moves on."""
    session = session_of(every_steps=10, every_seconds=3600.0)
    writes.move(session, 10, 0.0)
    assert writes.take(session, 0.0)
    writes.checkpointer.failed(session, 1.0)
    assert not writes.take(session, 1.0 + RETRY_SECONDS / 2)
    assert writes.take(session, 1.0 + RETRY_SECONDS)
    writes.checkpointer.failed(session, 2.0)
    writes.move(session, 1, 2.1)
    assert writes.take(session, 2.1)
    writes.done(session)

    assert not writes.take(session, 100.0)


def test_what_is_insisted_on_is_due(writes: Writes) -> None:
    """Only if there is anything to store: what is on its way or in the store is not stored once more."""
    session = session_of(every_steps=10)
    writes.checkpointer.insist(session)
    assert not writes.take(session, 0.0)
    writes.move(session, 1, 0.0)
    writes.checkpointer.insist(session)
    assert writes.take(session, 0.0)
    writes.checkpointer.insist(session)
    assert not writes.take(session, 0.1)
    writes.done(session)

    assert not writes.take(session, 0.2)
    assert writes.positions == [1]


def test_a_session_that_is_being_spilled_waits(writes: Writes) -> None:
    """Its state is nowhere to be read until the run is over; and so does one whose record is still being made."""
    session = session_of(SYNC)
    stored = session.stored
    assert stored is not None
    stored.epoch = 0
    writes.move(session, 1, 0.0)
    assert not writes.take(session, 0.0)
    stored.epoch, session.is_leaving = 1, True
    assert not writes.take(session, 0.1)
    session.is_leaving = False

    assert writes.take(session, 0.2)


def test_an_ended_session_is_forgotten(writes: Writes) -> None:
    """Neither its steps nor its time bring it up."""
    session = session_of(every_steps=1)
    writes.move(session, 1, 0.0)
    session.is_open = False
    writes.checkpointer.forget(session)

    assert not writes.take(session, 100.0)
    assert not writes.checkpointer.is_waiting(100.0)


def test_timers_do_not_pile_up(writes: Writes) -> None:
    """A session that is stored often, and may wait for long, has a timer or two and not one for each checkpoint."""
    session = session_of(every_steps=1, every_seconds=86_400.0)
    for step in range(1000):
        writes.move(session, 1, float(step))
        assert writes.take(session, float(step))
        writes.done(session)

    assert len(writes.checkpointer._timers) <= 2 * MIN_TIMERS
    writes.move(session, 0, 1000.0)
    assert writes.take(session, 87_400.0)


def test_no_more_are_taken_than_asked_for(writes: Writes) -> None:
    """Those that have been due for longest come first, the others when there is room."""
    sessions = [session_of(SYNC) for _ in range(5)]
    for session in sessions:
        writes.move(session, 1, 0.0)
    first = writes.checkpointer.take(0.0, 3)
    writes.move(first[0], 1, 0.0)

    assert first == sessions[:3]
    assert writes.checkpointer.take(0.0, 3) == [*sessions[3:], first[0]]
    assert not writes.checkpointer.is_waiting(0.0)


events = st.lists(st.sampled_from(("move", "tick", "done", "fail", "insist")), max_size=60)


@given(st.sampled_from((ASYNC, SYNC)), events)
def test_every_step_is_stored_once(mode: Mode, happenings: list[str]) -> None:
    """Whatever happens, no two writes that succeed are of the same position, and in the end nothing is left over."""
    writes, session, now, num_failed = Writes(), session_of(mode, every_steps=3, every_seconds=1.0), 0.0, 0
    stored = session.stored
    assert stored is not None
    for happening in [*happenings, "done", "tick", "done", "tick", "done"]:
        if happening == "move":
            writes.move(session, 1, now)
        elif happening == "tick":
            now += 1.0
        elif happening == "insist":
            writes.checkpointer.insist(session)
        elif stored.writing is not None and happening == "done":
            writes.done(session)
        elif stored.writing is not None:
            writes.checkpointer.failed(session, now)
            num_failed += 1
        writes.take(session, now)

    assert stored.newest == session.position
    assert writes.positions == sorted(writes.positions)
    assert len(writes.positions) - len(set(writes.positions)) <= num_failed

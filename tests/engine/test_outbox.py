"""Outcomes on their way out: those of a SYNC session wait for the store, and none is lost, doubled or overtaken."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conveyor.engine.checkpointer import Checkpointer
from conveyor.engine.durability import Durability, Mode, Stored
from conveyor.engine.outbox import Outbox
from conveyor.engine.session import Session
from conveyor.engine.work import Answer, Token
from conveyor.errors import Aborted, ConveyorError, Unavailable
from tests.engine.harness import ListSink

SINK = ListSink()


def session_of(mode: Mode | None, checkpoints: tuple[int, ...] = (0,)) -> Session:
    """An open session that is stored, or not at all."""
    session = Session("a", seed=1, opened=0.0, idle_timeout=60.0, lifetime_ends=1e9, last_used=0.0)
    if mode is not None:
        session.stored = Stored(Durability(mode), epoch=3, checkpoints=list(checkpoints))
    return session


def tell(outbox: Outbox, session: Session, outcome: Answer | Token | ConveyorError, *, is_last: bool = True) -> None:
    """What the core does when the last of some work is known, with the position as the tag."""
    outbox.num_waiting += is_last
    tag = "error" if isinstance(outcome, ConveyorError) else outcome.position
    outbox.tell(session, (SINK, tag, outcome), is_last=is_last)


def move(outbox: Outbox, session: Session, position: int) -> None:
    """An answer at this position, as one chunk of the session gives it."""
    session.position = position
    tell(outbox, session, Answer("a", position, 1))


def store(outbox: Outbox, session: Session, position: int) -> None:
    """A checkpoint of this position has come to the store."""
    assert session.stored is not None
    session.stored.add(position, *session.stored.kept(session.acknowledged))
    outbox.stored(session)


def tags(outbox: Outbox) -> list[Any]:
    return [tag for _, tag, _ in outbox.ready]


@pytest.fixture
def outbox() -> Outbox:
    return Outbox(Checkpointer())


@pytest.mark.parametrize(("mode", "epoch"), [(Mode.NONE, 0), (Mode.ASYNC, 3)])
def test_an_epoch_is_told_of_what_stays_stored(outbox: Outbox, mode: Mode, epoch: int) -> None:
    """A session that is stored only because its server stops goes on elsewhere without an epoch: it never had one."""
    answer = Answer("a", 2, 1)

    tell(outbox, session_of(mode), answer)

    assert answer.epoch == epoch


@pytest.mark.parametrize("mode", [None, Mode.ASYNC])
def test_others_go_out_at_once(outbox: Outbox, mode: Mode | None) -> None:
    """Stored or not, nobody waits for the store who has not asked to."""
    session = session_of(mode)
    move(outbox, session, 5)

    assert (tags(outbox), outbox.num_waiting) == ([5], 0)


def test_an_outcome_tells_what_is_durable(outbox: Outbox) -> None:
    """The newest checkpoint that its client is certainly not behind, and the epoch; nothing if it is not stored."""
    session, plain = session_of(Mode.ASYNC, (0, 10, 20)), session_of(None)
    session.acknowledged = 15
    move(outbox, session, 25)
    move(outbox, plain, 25)
    (_, _, durable), (_, _, mortal) = outbox.ready
    assert isinstance(durable, Answer)
    assert isinstance(mortal, Answer)

    assert (durable.durable_position, durable.epoch) == (10, 3)
    assert (mortal.durable_position, mortal.epoch) == (None, 0)


def test_sync_outcomes_wait_for_the_store(outbox: Outbox) -> None:
    """In their order, each until a checkpoint has what it tells; one checkpoint may let several out."""
    session = session_of(Mode.SYNC)
    for position in range(1, 6):
        move(outbox, session, position)
    assert (tags(outbox), outbox.num_waiting) == ([], 5)
    store(outbox, session, 3)
    assert (tags(outbox), outbox.num_waiting) == ([1, 2, 3], 2)
    store(outbox, session, 5)

    assert (tags(outbox), outbox.num_waiting) == ([1, 2, 3, 4, 5], 0)


def test_what_is_stored_goes_out_at_once(outbox: Outbox) -> None:
    """A kept answer that is asked for again waits for nothing."""
    session = session_of(Mode.SYNC, (0, 5))
    move(outbox, session, 5)

    assert (tags(outbox), outbox.num_waiting) == ([5], 0)


def test_a_failure_does_not_overtake(outbox: Outbox) -> None:
    """It goes out behind the answers before it; with none before it, at once."""
    session = session_of(Mode.SYNC)
    move(outbox, session, 1)
    tell(outbox, session, Aborted("the one before it failed"))
    assert tags(outbox) == []
    store(outbox, session, 1)
    tell(outbox, session, Aborted("again"))

    assert (tags(outbox), outbox.num_waiting) == ([1, "error", "error"], 0)


def test_an_old_answer_lets_no_new_one_out(outbox: Outbox) -> None:
    """A kept answer asked for again while later ones wait comes in its turn, and they when they are stored."""
    session = session_of(Mode.SYNC, (0, 3))
    for position in (5, 6):
        move(outbox, session, position)
    tell(outbox, session, Answer("a", 3, 1))
    store(outbox, session, 5)
    assert (tags(outbox), outbox.num_waiting) == ([5], 2)
    store(outbox, session, 6)

    assert (tags(outbox), outbox.num_waiting) == ([5, 6, 3], 0)


def test_a_refusal_takes_the_place_of_all_that_waits(outbox: Outbox) -> None:
    """Each work is told of it once, and not for each token; what was a failure stays what it was."""
    session = session_of(Mode.SYNC)
    failure, trouble = Aborted("the one before it failed"), Unavailable("the store does not answer")
    tell(outbox, session, Token("a", 1, 7, -1.0), is_last=False)
    move(outbox, session, 2)
    tell(outbox, session, failure)
    outbox.refuse(session, trouble)
    outbox.refuse(session, trouble)

    assert [outcome for _, _, outcome in outbox.ready] == [trouble, failure]
    assert outbox.num_waiting == 0
    store(outbox, session, 2)
    assert len(outbox.ready) == 2


def test_tokens_before_the_last_are_no_work(outbox: Outbox) -> None:
    """They wait for the store as all do, but only the last of them ends the wait for the generation."""
    session = session_of(Mode.SYNC)
    outbox.num_waiting = 1
    session.position = 1
    outbox.tell(session, (SINK, 1, Token("a", 1, 7, -1.0)), is_last=False)
    store(outbox, session, 1)
    assert (tags(outbox), outbox.num_waiting) == ([1], 1)
    session.position = 2
    outbox.tell(session, (SINK, 2, Token("a", 2, 7, -1.0)), is_last=True)
    store(outbox, session, 2)

    assert (tags(outbox), outbox.num_waiting) == ([1, 2], 0)


def test_what_waits_is_to_be_stored() -> None:
    """An answer that is asked for again after its checkpoint failed makes the session due at once."""
    checkpointer = Checkpointer()
    outbox, session = Outbox(checkpointer), session_of(Mode.SYNC)
    session.position = 4
    checkpointer.advanced(session, 0.0)
    assert checkpointer.take(0.0, 9) == [session]
    checkpointer.taken(session)
    checkpointer.failed(session, 0.0)
    assert checkpointer.take(0.0, 9) == []
    tell(outbox, session, Answer("a", 4, 4))

    assert checkpointer.take(0.0, 9) == [session]


def test_a_sink_that_is_gone_is_forgotten(outbox: Outbox) -> None:
    """Others of the same session still hear."""
    session, other = session_of(None), ListSink()
    move(outbox, session, 1)
    outbox.tell(session, (other, "kept", Answer("a", 2, 1)), is_last=False)
    outbox.forget(SINK)

    assert tags(outbox) == ["kept"]


events = st.lists(st.sampled_from(("answer", "again", "error", "store", "refuse")), max_size=40)


@given(events)
def test_every_outcome_goes_out_once(happenings: list[str]) -> None:
    """In the order in which they came, and no answer before the store has it."""
    outbox, session, told = Outbox(Checkpointer()), session_of(Mode.SYNC), 0
    stored = session.stored
    assert stored is not None
    for happening in [*happenings, "store"]:
        if happening == "answer":
            move(outbox, session, session.position + 1)
        elif happening == "again":
            tell(outbox, session, Answer("a", max(0, session.position - 2), 1))
        elif happening == "error":
            tell(outbox, session, Aborted("the one before it failed"))
        elif happening == "store":
            store(outbox, session, max(stored.newest or 0, session.position - 1))
        else:
            outbox.refuse(session, Unavailable("the store does not answer"))
        told += happening in ("answer", "again", "error")
        positions = [outcome.position for _, _, outcome in outbox.ready if isinstance(outcome, Answer)]
        assert max(positions, default=0) <= (stored.newest or 0)
        assert len(outbox.ready) + len(stored.held) == told
        assert len(stored.held) == outbox.num_waiting

"""What becomes of a session's chunks when one fails, without a connection."""

import asyncio

import pytest

from conveyor.client.errors import (
    Aborted,
    ClientError,
    InvalidArgument,
    NotFound,
    ReplayLost,
    ResourceExhausted,
    SessionEnded,
    StepTimeout,
    Unavailable,
    WrongPosition,
)
from conveyor.client.fate import DOUBT_SECONDS
from conveyor.client.lane import Lane
from conveyor.client.pending import Pending
from conveyor.client.replay import Replay
from conveyor.v1 import step_pb2

NOW, DEADLINE = 10.0, 20.0


def add(lane: Lane, num_steps: int = 1) -> Pending:
    """A chunk of these many steps, sent if it may be."""
    future: asyncio.Future[step_pb2.StepResult] = asyncio.get_running_loop().create_future()
    pending = Pending(lane, step_pb2.Chunk(tokens=[1] * num_steps), num_steps, [1] * num_steps, DEADLINE, future)
    pending.is_sent = lane.append(pending)
    return pending


def error_of(pending: Pending) -> type[BaseException]:
    return type(pending.future.exception())


async def test_positions_count_the_chunks_in_flight() -> None:
    """Each chunk begins where the one before it ends."""
    lane = Lane("s", 5)

    assert [add(lane, n).chunk.position for n in (3, 1, 2)] == [5, 8, 9]
    assert (lane.position, lane.next_position) == (5, 11)


async def test_a_retriable_failure_keeps_all_in_order() -> None:
    """The chunks behind a refused one are refused too, and all go out again once the last refusal is in."""
    lane = Lane("s", 0)
    first, second = add(lane), add(lane)

    assert lane.failed(first, ResourceExhausted("full"), NOW) == []
    assert not lane.must_resend
    late = add(lane)
    assert not late.is_sent
    assert lane.failed(second, WrongPosition("ahead", position=0), NOW) == []
    assert lane.must_resend
    assert list(lane.chunks) == [first, second, late]


async def test_a_failure_past_the_deadline_is_final() -> None:
    """What a retry could mend is an error once the chunk's time is up."""
    lane = Lane("s", 0)
    pending = add(lane)

    assert lane.failed(pending, Aborted("in flight"), DEADLINE) == [pending]
    assert error_of(pending) is Aborted
    assert lane.next_position == 0


async def test_a_final_failure_takes_those_behind_it() -> None:
    """A chunk that is refused for good fails those behind it, and the lane goes back to where it began."""
    lane = Lane("s", 4)
    first, second = add(lane, 2), add(lane)

    assert lane.failed(first, InvalidArgument("tokens: 99"), NOW) == [first, second]
    assert (error_of(first), error_of(second)) == (InvalidArgument, Aborted)
    assert lane.next_position == 4


async def test_a_lost_answer_does_not_fail_those_behind_it() -> None:
    """A chunk that was taken and whose answer is gone fails alone: those behind it may still be answered."""
    lane = Lane("s", 0)
    first, second = add(lane), add(lane)

    assert lane.failed(first, WrongPosition("behind", position=2), NOW) == [first]
    lane.answered(second, step_pb2.StepResult(position=2))
    assert error_of(first) is WrongPosition
    assert second.future.result().position == lane.position == lane.next_position == 2


async def test_a_loose_lane_takes_the_servers_position() -> None:
    """After a generation that was left early, chunks are put where the server is and sent again."""
    lane = Lane("s", 7)
    lane.is_loose = True
    first, second = add(lane, 2), add(lane)

    assert lane.failed(first, WrongPosition("behind", position=9), NOW) == []
    assert lane.failed(second, WrongPosition("ahead", position=9), NOW) == []
    assert lane.must_resend
    assert [first.chunk.position, second.chunk.position, lane.next_position] == [9, 11, 12]


async def test_an_expired_chunk_gives_its_position_to_the_next() -> None:
    """After a timeout the next chunk begins where the lost one did, which makes the same input its retry."""
    lane = Lane("s", 3)
    first, second = add(lane), add(lane)

    assert lane.expired(first) == [first, second]
    assert (error_of(first), error_of(second)) == (StepTimeout, Aborted)
    assert add(lane).chunk.position == 3


async def test_the_end_is_told_with_its_reason() -> None:
    """After the news of its end, a session that is not found has ended, for the reason that was told."""
    lane = Lane("s", 1)
    pending = add(lane)
    lane.end("idle", 1)
    lane.failed(pending, NotFound("no session"), NOW)

    assert error_of(pending) is SessionEnded
    with pytest.raises(SessionEnded, match="idle"):
        lane.fate.check_open()


async def test_a_cancelled_caller_still_has_its_step_counted() -> None:
    """The answer to a caller who is gone moves the position all the same."""
    lane = Lane("s", 0)
    pending = add(lane)
    pending.future.cancel()

    lane.answered(pending, step_pb2.StepResult(position=1))
    assert lane.position == 1


@pytest.mark.parametrize(
    ("error", "low", "high"),
    [(Aborted("x", retry_after=0.5), 0.5, 0.6), (Aborted("x"), 0.025, 0.05), (WrongPosition("x"), 0.0, 0.0)],
)
async def test_the_servers_advice_is_heeded(error: ClientError, low: float, high: float) -> None:
    """A retry comes no earlier than the server asks, and at once where only the position was wrong."""
    assert low <= Lane("s", 0).retry_delay(error) <= high


def stored_lane(position: int, *, replayed: bool = True) -> Lane:
    """A lane of a stored session."""
    return Lane("s", position, epoch=1, replay=Replay("s", position, 1 << 20) if replayed else None)


def answer(position: int, epoch: int = 1, durable_position: int = 0) -> step_pb2.StepResult:
    """The answer to a chunk that ends there."""
    return step_pb2.StepResult(position=position, epoch=epoch, durable_position=durable_position)


async def test_a_session_that_came_back_earlier_is_led_back() -> None:
    """What was answered since goes out again before the chunk that found out, and only that one has a caller."""
    lane = stored_lane(0)
    for end in (2, 5):
        lane.answered(add(lane, end - lane.position), answer(end))
    pending = add(lane)
    lane.failed(pending, WrongPosition("ahead", position=1), NOW)
    again = list(lane.restart())

    assert [(each.chunk.position, each.num_steps) for each in again] == [(1, 4), (5, 1)]
    assert [each.chunk.acknowledged_position for each in again] == [5, 5]
    assert lane.answered(again[0], answer(5, epoch=2))
    assert not pending.future.done()
    assert lane.answered(pending, answer(6, epoch=2))
    assert pending.future.result().position == 6
    assert lane.replayed_steps == 4


async def test_a_session_that_moves_twice_is_led_back_from_the_last_place() -> None:
    """What was to be sent again is made up anew when the session comes back elsewhere meanwhile."""
    lane = stored_lane(0)
    lane.answered(add(lane, 5), answer(5))
    pending = add(lane)
    lane.failed(pending, WrongPosition("ahead", position=3), NOW)
    [first, _] = lane.restart()
    assert lane.failed(first, WrongPosition("ahead", position=2), NOW) == [first]

    assert [each.chunk.position for each in lane.chunks] == [2, 5]
    lane.failed(lane.chunks[0], WrongPosition("behind", position=5), NOW)
    assert list(lane.chunks) == [pending]


async def test_what_is_durable_is_not_sent_again() -> None:
    """A session that comes back before what its server called durable is lost: nothing leads there."""
    lane = stored_lane(0)
    lane.answered(add(lane, 4), answer(4))
    lane.answered(add(lane, 4), answer(8, durable_position=4))
    pending = add(lane)
    lane.failed(pending, WrongPosition("ahead", position=3), NOW)

    assert error_of(pending) is ReplayLost
    assert lane.position == lane.next_position == 3


async def test_a_session_that_stands_within_a_chunk_has_not_consumed_it() -> None:
    """Somebody else has moved it: this chunk and those behind it fail, and the lane goes where the session is."""
    lane = stored_lane(2)
    pending, behind = add(lane, 2), add(lane)
    lane.failed(pending, WrongPosition("ahead", position=3), NOW)

    assert (error_of(pending), error_of(behind)) == (WrongPosition, Aborted)
    assert lane.position == lane.next_position == 3


async def test_nothing_leads_back_behind_a_chunk_that_was_given_up() -> None:
    """It was consumed, its answer is lost, and it is not kept: a session that came back before it is an error."""
    lane = stored_lane(0)
    lane.answered(add(lane, 2), answer(2))
    given_up, behind = add(lane, 2), add(lane)
    lane.failed(given_up, WrongPosition("ahead", position=5), NOW)
    assert (error_of(given_up), lane.position) == (WrongPosition, 4)
    lane.failed(behind, WrongPosition("behind", position=2), NOW)

    assert error_of(behind) is ReplayLost
    assert lane.position == lane.next_position == 2


@pytest.mark.parametrize("epoch", [0, 1])
async def test_a_session_that_keeps_nothing_is_not_reset(epoch: int) -> None:
    """Without inputs to send again, a session that came back earlier is an error, and the lane goes where it is."""
    lane = Lane("s", 7, epoch=epoch)
    pending, behind = add(lane), add(lane)
    lane.failed(pending, WrongPosition("ahead", position=2), NOW)

    assert (error_of(pending), error_of(behind)) == (ReplayLost, Aborted)
    assert lane.next_position == 2


async def test_an_answer_of_a_lower_epoch_is_dropped() -> None:
    """A server that has lost the session is not listened to; its chunks are asked again under the higher epoch."""
    lane = stored_lane(0)
    first, second = add(lane), add(lane)
    lane.sees(3)

    assert not lane.answered(first, answer(1, epoch=2))
    assert not lane.must_resend
    assert not lane.answered(second, answer(2, epoch=2))
    assert lane.must_resend
    assert [each.chunk.epoch for each in lane.restart()] == [3, 3]
    assert lane.answered(first, answer(1, epoch=4))
    assert lane.epoch == 4


async def test_an_answer_before_its_turn_is_dropped() -> None:
    """An answer whose predecessor has none is asked for again: callers hear in order."""
    lane = stored_lane(0)
    first, second = add(lane), add(lane)
    lane.failed(first, Unavailable("store"), NOW)

    assert not lane.answered(second, answer(2))
    assert not second.future.done()
    assert lane.must_resend


@pytest.mark.parametrize(("error", "may_be_taken"), [(Unavailable("store"), True), (Aborted("in flight"), False)])
async def test_a_lost_answer_of_a_stored_session_is_had_again(error: ClientError, may_be_taken: bool) -> None:
    """Where a chunk may have been taken and its answer lost, the session goes back; else somebody else moved it."""
    lane = stored_lane(0)
    pending = add(lane)
    lane.failed(pending, error, NOW)
    lane.restart()
    lane.failed(pending, WrongPosition("behind", position=1), NOW)

    assert lane.must_resume == may_be_taken
    assert pending.future.done() != may_be_taken


async def test_a_chunk_that_is_refused_after_going_back_is_another() -> None:
    """Once the server has all answers again, a chunk that it refuses is not the one that it took."""
    lane = stored_lane(0)
    pending = add(lane)
    lane.lose(NOW)
    for _ in range(2):
        lane.restart()
        lane.failed(pending, WrongPosition("behind", position=1), NOW)
        lane.went_back(1)

    assert error_of(pending) is WrongPosition
    assert lane.next_position == 1


async def test_an_unknown_session_is_doubted_after_a_loss() -> None:
    """Right after a lost connection NOT_FOUND may come from the wrong server; it is believed in the end."""
    lane = Lane("s", 0)
    lane.answered(add(lane), step_pb2.StepResult(position=1))
    lane.lose(NOW)
    pending = add(lane)

    assert lane.failed(pending, NotFound("no session"), NOW + DOUBT_SECONDS / 2) == []
    assert lane.is_adrift
    lane.restart()
    assert lane.failed(pending, NotFound("no session"), NOW + 2 * DOUBT_SECONDS) == [pending]
    assert error_of(pending) is NotFound


async def test_a_session_may_be_looked_for_long_after_a_loss() -> None:
    """A session that rested since its connection was lost is looked for once, however long ago that was."""
    lane = Lane("s", 0, has_peers=True)
    lane.answered(add(lane), step_pb2.StepResult(position=1))
    lane.lose(NOW)
    now = NOW + 2 * DOUBT_SECONDS
    pending = add(lane)
    pending.deadline = now + 100

    assert lane.failed(pending, NotFound("no session"), now) == []
    assert lane.must_resume
    assert lane.failed(pending, NotFound("no session"), now + DOUBT_SECONDS / 2) == []
    assert lane.failed(pending, NotFound("no session"), now + 2 * DOUBT_SECONDS) == [pending]


async def test_an_unknown_session_is_believed_without_a_loss() -> None:
    """A session that was stepped on this connection and is not found has ended."""
    lane = Lane("s", 0)
    lane.answered(add(lane), step_pb2.StepResult(position=1))
    pending = add(lane)

    assert lane.failed(pending, NotFound("no session"), NOW) == [pending]


async def test_a_doubted_chunk_that_runs_out_of_time_is_not_found() -> None:
    """What was last heard is told, and not that nothing was."""
    lane = Lane("s", 0)
    lane.lose(NOW)
    pending = add(lane)
    lane.failed(pending, NotFound("no session"), NOW)

    assert lane.expired(pending) == [pending]
    assert error_of(pending) is NotFound


@pytest.mark.parametrize("reason", ["moved", "drained"])
async def test_a_session_that_goes_on_elsewhere_is_open(reason: str) -> None:
    """The news that a session has left its server ends nothing, unless no other has it."""
    lane = stored_lane(0)
    lane.end(reason, 0)
    lane.fate.check_open()
    pending = add(lane)
    assert lane.is_adrift
    lane.failed(pending, NotFound("no session"), NOW)
    lane.failed(pending, NotFound("no session"), NOW)

    assert error_of(pending) is SessionEnded


async def test_what_is_sent_for_a_step_goes_with_it() -> None:
    """When the last chunk with a caller is given up, what was to be sent again for it is dropped."""
    lane = stored_lane(0)
    lane.answered(add(lane, 5), answer(5))
    pending = add(lane)
    lane.failed(pending, WrongPosition("ahead", position=0), NOW)

    assert set(lane.expired(pending)) >= {pending}
    assert not lane.chunks
    assert lane.next_position == 5


async def test_a_doubt_begins_once_and_ends() -> None:
    """Connections that are lost while NOT_FOUND is doubted give it no more time; a sign of life lets it begin anew."""
    lane = Lane("s", 0, has_peers=True)
    pending = add(lane)
    pending.deadline = NOW + 100
    assert lane.failed(pending, NotFound("no session"), NOW) == []
    lane.lose(NOW + DOUBT_SECONDS / 2)
    lane.fate.live()
    assert lane.failed(pending, NotFound("no session"), NOW + DOUBT_SECONDS) == []
    lane.lose(NOW + 1.5 * DOUBT_SECONDS)

    assert lane.failed(pending, NotFound("no session"), NOW + 2.1 * DOUBT_SECONDS) == [pending]


async def test_a_search_that_was_not_whole_is_not_believed() -> None:
    """Though the doubt was over when it ended: the next one is whole."""
    lane = Lane("s", 0, has_peers=True)
    pending = add(lane)
    pending.deadline = NOW + 100
    lane.failed(pending, NotFound("no session"), NOW)
    brief = NotFound("no session")
    brief.is_certain = False

    assert lane.failed(pending, brief, NOW + 2 * DOUBT_SECONDS) == []
    assert lane.failed(pending, NotFound("no session"), NOW + 2 * DOUBT_SECONDS) == [pending]

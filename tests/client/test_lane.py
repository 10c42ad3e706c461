"""What becomes of a session's chunks when one fails, without a connection."""

import asyncio

import pytest

from conveyor.client.errors import (
    Aborted,
    ClientError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    SessionEnded,
    StepTimeout,
    WrongPosition,
)
from conveyor.client.lane import Lane
from conveyor.client.pending import Pending
from conveyor.v1 import step_pb2

NOW, DEADLINE = 10.0, 20.0


def add(lane: Lane, num_steps: int = 1) -> Pending:
    """A chunk of these many steps, sent if it may be."""
    future: asyncio.Future[step_pb2.StepResult] = asyncio.get_running_loop().create_future()
    pending = Pending(lane, step_pb2.Chunk(tokens=[1] * num_steps), num_steps, DEADLINE, future)
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
        lane.check_open()


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

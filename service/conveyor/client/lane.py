"""The chunks of one session that are on their way, in order, and what becomes of them when one fails. No I/O."""

import asyncio
from collections import deque

from conveyor.client.backoff import Backoff
from conveyor.client.errors import Aborted, ClientError, NotFound, SessionEnded, StepTimeout, WrongPosition
from conveyor.v1 import step_pb2


class Pending:
    """A chunk that waits for its answer. `is_sent` is False while it waits to be sent (again)."""

    __slots__ = ("chunk", "deadline", "future", "is_sent", "lane", "num_steps", "request_id")

    def __init__(
        self,
        lane: "Lane",
        chunk: step_pb2.Chunk,
        request_id: int,
        num_steps: int,
        deadline: float,
        future: "asyncio.Future[step_pb2.StepResult]",
    ) -> None:
        self.lane = lane
        self.chunk = chunk
        self.request_id = request_id
        self.num_steps = num_steps
        self.deadline = deadline
        self.future = future
        self.is_sent = False


class Lane:
    """One session's chunks in flight.

    `position` is what the server has confirmed; `next_position` counts the chunks in flight.
    `is_loose` is set where the server may be further than it has told: after a generation that was left early.
    """

    __slots__ = (
        "__weakref__",
        "_backoff",
        "_ended",
        "chunks",
        "is_loose",
        "next_position",
        "position",
        "session_id",
    )

    def __init__(self, session_id: str, position: int) -> None:
        self.session_id = session_id
        self.chunks: deque[Pending] = deque()
        self._ended: tuple[str, int] | None = None
        self._backoff: Backoff | None = None
        self.settle(position)

    def settle(self, position: int) -> None:
        """Takes the server's word for the position; nothing may be in flight."""
        self.position = self.next_position = position
        self.is_loose = False

    @property
    def is_ended(self) -> bool:
        """True after the news of the session's end."""
        return self._ended is not None

    def check_open(self) -> None:
        """Raises SessionEnded if the server has ended the session."""
        if self._ended is not None:
            raise SessionEnded(self.session_id, *self._ended)

    def end(self, reason: str, position: int) -> None:
        """Takes the news that the server has ended the session."""
        self._ended = (reason, position)

    def append(self, pending: Pending) -> bool:
        """Puts a chunk behind those in flight, at its position. False if it must wait for `unsent`."""
        pending.chunk.position = self.next_position
        if self.chunks:
            pending.chunk.acknowledged_position = self.position
        self.next_position += pending.num_steps
        is_free = not self.chunks or self.chunks[0].is_sent
        self.chunks.append(pending)
        return is_free

    def answered(self, pending: Pending, result: step_pb2.StepResult) -> None:
        """Takes the answer of the oldest chunk."""
        self.chunks.remove(pending)  # the oldest: found at once
        self.position = result.position
        self.is_loose = False
        self._backoff = None
        if not pending.future.done():
            pending.future.set_result(result)

    def failed(self, pending: Pending, error: ClientError, now: float) -> list[Pending]:
        """Takes the failure of a chunk. Returns the chunks that are given up; the others wait to be sent again."""
        pending.is_sent = False
        if isinstance(error, WrongPosition) and self.is_loose and error.position is not None:
            self._rebase(error.position)
            return []
        is_behind = self.chunks[0] is not pending  # one ahead of it failed first and will be sent again
        if (is_behind and isinstance(error, Aborted | WrongPosition)) or (
            error.is_retriable and now < pending.deadline
        ):
            return []
        return self.give_up(pending, error)

    def _rebase(self, position: int) -> None:
        self.is_loose = False
        self.next_position = position
        for pending in self.chunks:
            pending.chunk.position = self.next_position
            self.next_position += pending.num_steps

    def give_up(self, pending: Pending, error: ClientError) -> list[Pending]:
        """Fails a chunk, and those behind it unless it was consumed. Returns them."""
        start = pending.chunk.position
        if isinstance(error, NotFound) and self._ended is not None:
            error = SessionEnded(self.session_id, *self._ended)
        if isinstance(error, WrongPosition) and error.position is not None and error.position > start:
            # It was consumed and its answer is lost; those behind it may still be answered.
            lost = [pending]
        else:
            lost = list(self.chunks)[self.chunks.index(pending) :]
        for each in lost:
            self.chunks.remove(each)
            is_told = each is pending or isinstance(error, NotFound)
            _fail(each, error if is_told else Aborted(f"a step before it failed: {error.message}"))
        if not self.chunks or len(lost) > 1:
            self.next_position = start if error.position is None else error.position
        return lost

    def expired(self, pending: Pending) -> list[Pending]:
        """Gives up a chunk whose deadline has passed, and those behind it. Returns them.

        The next chunk will have its position. If it was taken, the server answers the same chunk from the kept answer
        and refuses any other: nothing is taken twice.
        """
        return self.give_up(pending, StepTimeout("no answer in time", position=pending.chunk.position))

    @property
    def must_resend(self) -> bool:
        """True if chunks wait to be sent again, and no answer is due that could still change which."""
        return bool(self.chunks) and not any(pending.is_sent for pending in self.chunks)

    def retry_delay(self, error: ClientError) -> float:
        """Seconds until `unsent` may be sent."""
        if isinstance(error, WrongPosition):
            return 0.0
        if self._backoff is None:
            self._backoff = Backoff()
        return self._backoff.next(error.retry_after)


def _fail(pending: Pending, error: ClientError) -> None:
    if not pending.future.done():
        pending.future.set_exception(error)

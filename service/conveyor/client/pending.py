"""A chunk on its way: one that a caller waits for, or one that is sent again for its session's sake."""

import asyncio
from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING

from conveyor.v1 import step_pb2

if TYPE_CHECKING:
    from conveyor.client.lane import Lane


class Pending:
    """A chunk that waits for its answer. `is_sent` is False while it waits to be sent (again).

    `tokens` are those of the chunk, if it has any. The message would take ten times as long to give them.
    `may_be_taken` tells that a server may have consumed it, and the answer is lost.
    `future` is None for one that was answered before the session's server was lost: its answer is nobody's.
    """

    __slots__ = ("chunk", "deadline", "future", "is_sent", "lane", "may_be_taken", "num_steps", "request_id", "tokens")

    def __init__(
        self,
        lane: "Lane",
        chunk: step_pb2.Chunk,
        num_steps: int,
        tokens: Sequence[int] = (),
        deadline: float = inf,
        future: "asyncio.Future[step_pb2.StepResult] | None" = None,
    ) -> None:
        self.lane = lane
        self.chunk = chunk
        self.num_steps = num_steps
        self.tokens = tokens
        self.deadline = deadline
        self.future = future
        self.request_id = 0  # given when it is sent
        self.is_sent = self.may_be_taken = False

    @property
    def is_replay(self) -> bool:
        """True of a chunk whose answer the caller has."""
        return self.future is None

    def fail(self, error: Exception) -> None:
        """Tells the caller, if one is still there."""
        if self.future is not None and not self.future.done():
            self.future.set_exception(error)

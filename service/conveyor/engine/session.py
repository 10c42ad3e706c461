"""One session as the engine knows it."""

from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from conveyor.engine.drawn import Drawn
from conveyor.engine.durability import Stored
from conveyor.engine.spilled import Rows
from conveyor.engine.work import Answer, Array, Chunk, EndReason, Generation, Sink, Want
from conveyor.errors import Aborted, ConveyorError, NotFound, Unavailable, WrongPosition

if TYPE_CHECKING:
    from conveyor.engine.job import Job

# Tokens that a session remembers for repetition penalties: the widest window that a client may ask for.
MAX_REMEMBERED = 256


@dataclass(slots=True)
class Kept:
    """The answer to a chunk, for the client that asks again. `start` is the position before it."""

    start: int
    inputs: dict[str, Array]
    want: Want
    answer: Answer

    @property
    def num_bytes(self) -> int:
        """About what it takes in memory."""
        return self.answer.num_bytes + sum(array.nbytes for array in self.inputs.values())

    def is_of(self, chunk: Chunk, num_steps: int) -> bool:
        """True if the chunk asks the same of the same inputs, from the same position on."""
        return (
            self.start == chunk.position
            and self.answer.num_steps == num_steps
            and self.want == chunk.want
            and all(np.array_equal(self.inputs[name], array) for name, array in chunk.inputs.items())
        )


@dataclass(slots=True, eq=False)
class Session:
    """A sequence being consumed. Times are seconds on the engine's clock.

    `position` counts accepted tokens that are part of the state, or pending: a `pending` token is counted but runs
    together with the next request, because only then can its prediction be used.
    `slot` 0 means that the state is not in the arena: it is the initial state, or it was spilled.
    """

    session_id: str
    seed: int
    opened: float
    idle_timeout: float
    lifetime_ends: float
    last_used: float
    slot: int = 0
    context_slot: int = 0  # row of the arena of contexts, while the state is in the arena
    contexts: Rows | None = None  # those rows, for as long as the session lives
    initial: Rows | None = None  # the state that an initialiser gave it, until a run has taken it
    position: int = 0
    pending: int | None = None
    jobs: "deque[Job]" = field(default_factory=deque)
    tail: int = 0  # position once every accepted job has finished
    is_running: bool = False  # in a batch, or being spilled by one
    is_leaving: bool = False  # being spilled: its slot may be another's by now
    is_entering: bool = False  # being restored: its state may not be in its slot yet
    is_open: bool = True
    is_opening: bool = False  # the store is asked whether the id is free: until then nobody finds it
    acknowledged: int = 0  # the client has the answers up to here
    kept: tuple[Kept, ...] = ()  # answers that it may not have, oldest first
    history: "array[int] | None" = None  # the tokens that its state has seen; None if they are not followed
    seen: deque[int] | None = None  # its latest tokens, for repetition penalties; from its first generation on
    drawn: Drawn | None = None  # its latest tokens that a client may not have read, while it was only generating
    stored: Stored | None = None  # what a store has of it; None without durability
    sink: Sink | None = None  # the stream that stepped it last: hears when the session ends

    @property
    def unread(self) -> tuple[Kept, ...]:
        """The kept answers that the client may not have: none from before a generation, which it asked for since."""
        if self.drawn is not None:
            return ()
        return tuple(kept for kept in self.kept if kept.answer.position > self.acknowledged)

    @property
    def num_run(self) -> int:
        """Steps that its state has seen; the pending token's is still to run."""
        return self.position - (self.pending is not None)

    @property
    def expires(self) -> float:
        """When the session ends if nothing uses it."""
        return min(self.last_used + self.idle_timeout, self.lifetime_ends)

    def check_order(self, work: Chunk | Generation) -> None:
        """Chunks may follow chunks; a generation is alone. What was cancelled is in nobody's way. Raises Aborted."""
        last = self.jobs[-1] if self.jobs else None
        if last is None or last.is_cancelled:
            return
        if isinstance(work, Generation) or isinstance(last.work, Generation):
            raise Aborted("session_id: another request of the session is in flight")

    def check_position(self, position: int | None) -> None:
        """Work goes on from where the work accepted before it ends. Raises Aborted, WrongPosition."""
        if position is None or position == self.tail:
            return
        if self.position <= position < self.tail:
            raise Aborted(f"position: {position} is in flight")
        raise WrongPosition(position, self.position)

    def problem_of(self, reason: EndReason) -> ConveyorError:
        """What its waiting work is told of its end: to try again, if it may go on elsewhere."""
        problem = f"session_id: session {self.session_id!r} has ended: {reason.value}"
        goes_on = self.stored is not None and reason in (EndReason.MOVED, EndReason.DRAINED, EndReason.UNLOADED)
        return Unavailable(problem) if goes_on else NotFound(problem)

    def kept_answer(self, chunk: Chunk, num_steps: int) -> Answer | None:
        """The answer that this chunk of so many steps asks for again; None if it does not, or if that is not kept."""
        return next((kept.answer for kept in self.kept if kept.is_of(chunk, num_steps)), None)

    def answers_from(self, received: int) -> bool:
        """True if all that it has answered beyond `received` is kept."""
        return can_answer(received, self.position, self.kept, self.drawn)


def can_answer(received: int, position: int, kept: Sequence[Kept], drawn: Drawn | None) -> bool:
    """True if all that was answered between `received` and a session's position is kept."""
    if received >= position or any(each.start == received for each in kept):
        return True
    return drawn is not None and drawn.reaches(received)

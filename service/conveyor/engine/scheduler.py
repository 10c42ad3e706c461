"""Which sessions advance together, and how far. Does no I/O; the time is an argument."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from conveyor.engine.job import Job
from conveyor.engine.session import Session
from conveyor.engine.spilled import Rows

# A run costs about as much as this many rows of one step, and each step of it as much as that many, whatever is in it
# (reading the weights, launching the nodes). Measured on LSTMs of 128 to 1024 units on a CPU; only ratios matter.
RUN_ROWS = 4
STEP_ROWS = 8


@dataclass(slots=True)
class Batch:
    """Sessions that advance in one run: `num_steps` steps at most, `lengths[i]` of them for `jobs[i]`."""

    jobs: list[Job]
    lengths: list[int]
    num_steps: int
    spills: list[Session] = field(default_factory=list)  # whose slots others take, once their states are read out
    restores: list[tuple[Session, Rows]] = field(default_factory=list)  # who comes in, with what state
    contexts: list[Session] = field(default_factory=list)  # whose contexts come in with them
    known: list[tuple[Job, Rows]] = field(default_factory=list)  # who begins after known steps, with what state
    num_returning: int = 0  # of those that come in, the ones that had been spilled

    def __len__(self) -> int:
        return len(self.jobs)


class Scheduler:
    """Sessions that have work, oldest first: in line from when their first job can run until a run takes it.

    `constants` tells of a session's contexts what all sessions of a run must share; None if that is nothing.
    """

    def __init__(
        self,
        max_batch: int,
        max_run_steps: int,
        *,
        is_ragged: bool,
        constants: Callable[[Rows], bytes] | None = None,
    ) -> None:
        self.max_batch = max_batch
        self._max_run_steps = max_run_steps
        self._is_ragged = is_ragged
        self._constants = constants
        self._line: dict[Session, None] = {}

    def __len__(self) -> int:
        return len(self._line)

    def add(self, session: Session) -> None:
        """Puts a session at the end of the line, unless it is in it."""
        self._line.setdefault(session)

    def discard(self, session: Session) -> None:
        """Takes a session out of the line."""
        self._line.pop(session, None)

    def line(self) -> list[Session]:
        """The sessions in line that can run with the first, first come first; they stay in it."""
        line = list(self._line)
        if self._constants is None or not line:
            return line
        shared = self._shared(line[0])
        return [session for session in line if self._shared(session) == shared]

    def _shared(self, session: Session) -> bytes:
        return self._constants(session.contexts) if self._constants and session.contexts else b""

    def form(self, sessions: list[Session]) -> Batch:
        """Takes these sessions out of the line, as one batch; those that cannot run this far stay in it."""
        jobs = [session.jobs[0] for session in sessions]
        remaining = [job.num_total - job.num_done for job in jobs]
        num_steps = choose_length(remaining, self._max_run_steps, is_ragged=self._is_ragged)
        if not self._is_ragged and num_steps > 1:
            jobs = [job for job, left in zip(jobs, remaining, strict=True) if left >= num_steps]
            remaining = [num_steps] * len(jobs)
        for job in jobs:
            del self._line[job.session]
            job.session.is_running = True
        lengths = remaining if num_steps == max(remaining) else [min(left, num_steps) for left in remaining]
        return Batch(jobs, lengths, num_steps)


def choose_length(remaining: Sequence[int], max_steps: int, *, is_ragged: bool) -> int:
    """Length of the run that does most of the remaining steps for its cost.

    A long run pays the fixed costs once, but carries the short chunks' idle rows along (`is_ragged`), or leaves the
    short chunks out. So a prefix alone runs in long stretches, and beside many single steps goes with them step by
    step: it never holds them up.
    """
    # Where short chunks are left out, the oldest of all must not be, or long ones could keep it waiting for ever.
    longest = min(max(remaining) if is_ragged else remaining[0], max_steps)
    if longest == 1:
        return 1
    lengths = [1 << n for n in range(longest.bit_length())]
    if lengths[-1] != longest:
        lengths.append(longest)
    return max(lengths, key=lambda length: _yield_of(length, remaining, is_ragged=is_ragged))


def _yield_of(length: int, remaining: Sequence[int], *, is_ragged: bool) -> float:
    if is_ragged:
        useful, num_rows = sum(min(left, length) for left in remaining), len(remaining)
    else:
        num_rows = sum(left >= length for left in remaining)
        useful = num_rows * length
    return useful / (RUN_ROWS + length * (STEP_ROWS + num_rows))

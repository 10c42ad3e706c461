"""What the clients have seen: counts that add up over sessions and processes."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self


@dataclass(frozen=True, slots=True)
class Gone:
    """A session that the service no longer knows. Times are in seconds since 1970."""

    session_id: str
    durability: str
    last_answer: float
    noticed: float
    holder: str  # the replica that has it all the same, if there is one
    message: str

    def __str__(self) -> str:
        when = f"last answer at {clock(self.last_answer)}, gone at {clock(self.noticed)}"
        where = f", though {self.holder} has it" if self.holder else ""
        return f"{self.durability} session {self.session_id}: {when}{where}: {self.message}"


def clock(time: float) -> str:
    """The time of day of a moment in seconds since 1970, as the replicas' logs have it."""
    return f"{datetime.fromtimestamp(time, UTC):%H:%M:%S.%f}"


@dataclass(frozen=True, slots=True)
class Pause:
    """A wait for an answer, or for the next token of one, from when to when on the machine's monotonic clock."""

    what: str
    begun: float
    ended: float

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.ended - self.begun


@dataclass(slots=True)
class Tally:
    """Counts of a load. A step is lost if a position falls short of what was sent, doubled if it goes beyond."""

    num_sessions: int = 0
    num_answers: int = 0
    num_steps: int = 0
    num_generated: int = 0
    num_lost: int = 0
    num_doubled: int = 0
    num_wrong: int = 0
    num_failed: int = 0
    num_handovers: int = 0
    num_cuts: int = 0
    num_replayed: int = 0
    num_fenced: int = 0
    largest_difference: float = 0.0
    pauses: list[Pause] = field(default_factory=list)  # of half a second and more
    gone: list[Gone] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # a line for each fault

    def __iadd__(self, other: Self) -> Self:
        for name in self.__slots__:
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, max(mine, theirs) if name == "largest_difference" else mine + theirs)
        return self

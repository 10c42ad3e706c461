"""When a session's checkpoints are stored, and what of them is."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

# Checkpoints that a session may have in the store beside the one that its client is certainly not behind.
MAX_LATEST_ASYNC = 2
MAX_LATEST_SYNC = 16


class Mode(Enum):
    """What a client may count on when the process ends; see `DurabilityMode` in session.proto."""

    NONE = "none"
    ASYNC = "async"
    SYNC = "sync"


@dataclass(frozen=True, slots=True)
class Durability:
    """A mode, and for ASYNC the most steps and the most seconds that a step may wait for a checkpoint."""

    mode: Mode = Mode.NONE
    every_steps: int = 64
    every_seconds: float = 1.0

    @property
    def lag(self) -> float:
        """Seconds for which a step may wait for a checkpoint, if the store takes it."""
        return self.every_seconds if self.mode is Mode.ASYNC else 0.0


NOT_STORED = Durability()


@dataclass(slots=True)
class Stored:
    """What the store has of an open session. None of it exists before the record is made: then `epoch` is 0.

    `checkpoints` are positions in the store, ascending, and `writing` is that of the one on its way. `held` are
    outcomes of a SYNC session: the position that must be stored before each is sent, the outcome, and whether it is the
    last of its work. `is_sync` tells that nothing is answered before it is stored, `due_at` from which position on the
    steps alone make the session due.
    """

    durability: Durability
    epoch: int = 0
    checkpoints: list[int] = field(default_factory=list)
    writing: int | None = None
    dirty_since: float | None = None  # the first step that is in no checkpoint, not even the one on its way
    held: list[tuple[int, Any, bool]] = field(default_factory=list)
    # For every step, so they are worked out beforehand.
    is_sync: bool = field(init=False)
    due_at: int = field(init=False)

    def __post_init__(self) -> None:
        self.is_sync = self.durability.mode is Mode.SYNC
        self.end()

    def begin(self, position: int) -> None:
        """Takes note that a checkpoint of this position is on its way."""
        self.writing, self.dirty_since = position, None
        self._set_due(position)

    def end(self) -> None:
        """Takes note that none is on its way any more."""
        self.writing = None
        self._set_due(self.newest or 0)

    def _set_due(self, last: int) -> None:
        self.due_at = 0 if self.is_sync else last + self.durability.every_steps

    @property
    def told_epoch(self) -> int:
        """What clients are told: 0 with NONE, since a session that is stored for its server's end goes on unstored."""
        return 0 if self.durability.mode is Mode.NONE else self.epoch

    @property
    def newest(self) -> int | None:
        """Position of the newest stored checkpoint."""
        return self.checkpoints[-1] if self.checkpoints else None

    def base(self, received: int) -> int | None:
        """The newest checkpoint that a client with the answers up to `received` is not behind."""
        # For every answer, and the newest is nearly always the one.
        if self.checkpoints and self.checkpoints[-1] <= received:
            return self.checkpoints[-1]
        for position in reversed(self.checkpoints):
            if position <= received:
                return position
        return None

    def kept(self, acknowledged: int) -> tuple[int, int]:
        """Which checkpoints stay beside the next: the one at the first position, and those from the second on.

        The client is at `acknowledged` or further, so one of that position or before must stay; of those after it the
        latest do, because the client is likely to be at one of them.
        """
        oldest = self.base(acknowledged) or 0
        latest = self.checkpoints[-(MAX_LATEST_SYNC if self.is_sync else MAX_LATEST_ASYNC) + 1 :]
        return oldest, max(oldest, latest[0] if latest else 0)

    def add(self, position: int, oldest: int, latest: int) -> None:
        """Takes note of a checkpoint that was stored, and of those that went for it."""
        kept = [p for p in self.checkpoints if (p == oldest or p >= latest) and p != position]
        self.checkpoints = sorted([*kept, position])
        self.end()

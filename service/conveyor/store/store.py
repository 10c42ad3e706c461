"""What a store of checkpoints does: the words that memory, SQLite and Valkey share."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

# Seconds for which a closed session's epoch is kept.
CLOSED_SECONDS = 3600.0
# Of each head in a list: enough to describe the session. The contexts behind that may be pictures.
LISTED_BYTES = 4096


class StoreError(Exception):
    """The store did not do what it was asked, or did not say so in time: it is gone, full, slow or starting."""


@dataclass(frozen=True, slots=True)
class Save:
    """A checkpoint on its way to the store.

    Checkpoints below the position `oldest` go, and of those after it all that are below `latest`; both are at most
    `position`. From there on those of lower epochs go: whoever owned the session then had come further, but it was
    taken up behind them. `seconds` is how long the record lives if nothing is saved again. `head` is what never changes
    in a session; without it, a record that is not there cannot be made.
    """

    session_id: str
    epoch: int
    position: int
    checkpoint: bytes
    oldest: int
    seconds: float
    head: bytes | None = None
    latest: int = 0


class Saved(Enum):
    """What came of a save."""

    DONE = "done"
    FENCED = "fenced"  # the record has a higher epoch, so another server owns the session; or it was closed
    GONE = "gone"  # there is no record, and the save brought no head to make one


@dataclass(frozen=True, slots=True)
class Record:
    """A stored session. `checkpoints` are by position."""

    session_id: str
    epoch: int
    head: bytes
    checkpoints: dict[int, bytes]


class Store(Protocol):
    """Checkpoints by session. An epoch fences off servers that have lost a session without knowing it.

    Every method is atomic for each session and raises StoreError when the store cannot do it, or does not say within
    its bound of time whether it has.
    """

    async def create(self, saves: Sequence[Save], *, must_replicate: bool = False) -> list[int]:
        """Makes records of sessions that are being opened; each save has a head and its epoch does not count.

        Returns the epoch of each: 1, or one more than what a closed session of that id left; 0 where one is open.
        `must_replicate` is as of `save`.
        """

    async def save(self, saves: Sequence[Save], *, must_replicate: bool) -> list[Saved]:
        """Stores checkpoints in one round trip; at most one of each session.

        A save of the record's epoch or a higher one is taken, and sets the record's; a lower one is refused. Of a
        closed session the epoch that it was closed with is refused too. One with a head makes a record that is gone.
        `must_replicate` waits for the store's replicas, where it has any.
        """

    async def acquire(self, session_id: str, epoch: int | None = None, seconds: float = 0.0) -> Record | None:
        """Raises the epoch of a session, so that whoever had it is refused from now on, and returns its record.

        The record lives for `seconds` from now at least, if nothing is saved. The store's replicas have the epoch by
        then, where there are any: one that came back would be had by two.

        None, and nothing is raised, if it is not the epoch given: somebody else was quicker.
        """

    async def read(self, session_id: str) -> Record | None:
        """The record as it is, without owning it. None if there is none, or the session was closed."""

    async def close(self, closings: Sequence[tuple[str, int]]) -> list[bool]:
        """Ends sessions, given with their epochs; False for one that has a higher epoch by now: it is left alone.

        The epoch stays for an hour, whether there was a record or not, so that a server which wakes up late cannot
        bring the session back.
        """

    async def list(self, count: int, cursor: str = "") -> tuple[list[Record], str]:
        """About `count` open records, and the next cursor.

        They have no checkpoints' bytes (positions with empty values), and of each head the first `LISTED_BYTES`.

        An empty cursor starts, and one that comes back empty ends. Records that come or go meanwhile may be missed, and
        one may come twice.

        Raises:
            ValueError: the store gives no such cursors.
        """

    async def stop(self) -> None:
        """Closes files and connections."""


def judge(save: Save, epoch: int | None, *, is_open: bool) -> Saved:
    """What comes of a save, given the record's epoch: None if there is no record."""
    if epoch is not None and (save.epoch < epoch or (save.epoch == epoch and not is_open)):
        return Saved.FENCED
    return Saved.DONE if is_open or save.head is not None else Saved.GONE

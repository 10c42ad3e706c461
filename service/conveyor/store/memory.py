"""Keeps checkpoints in this process: for tests, and for a server whose sessions need not outlive it."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from heapq import nsmallest
from time import monotonic

from conveyor.store.store import CLOSED_SECONDS, LISTED_BYTES, Record, Save, Saved, judge


@dataclass(slots=True)
class _Entry:
    """A session. `checkpoints` are the epoch that stored each and its bytes, by position."""

    epoch: int
    expires: float
    is_open: bool = False
    head: bytes = b""
    checkpoints: dict[int, tuple[int, bytes]] = field(default_factory=dict)

    def put(self, save: Save) -> None:
        self.epoch = save.epoch
        self.expires = monotonic() + save.seconds
        self.checkpoints = {
            position: (epoch, checkpoint)
            for position, (epoch, checkpoint) in self.checkpoints.items()
            if (position == save.oldest or position >= max(save.oldest, save.latest))
            and (epoch == save.epoch or position < save.position)
        }
        self.checkpoints[save.position] = save.epoch, save.checkpoint

    def record(self, session_id: str) -> Record:
        checkpoints = {position: checkpoint for position, (_, checkpoint) in self.checkpoints.items()}
        return Record(session_id, self.epoch, self.head, checkpoints)


class MemoryStore:
    """A `Store` of one event loop; several engines on it may share it."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    async def create(self, saves: Sequence[Save], *, must_replicate: bool = False) -> list[int]:
        """See `Store`. There are no replicas."""
        self._sweep(len(saves))
        return [self._create(save) for save in saves]

    def _create(self, save: Save) -> int:
        found = self._get(save.session_id)
        if found and found.is_open:
            return 0
        epoch = found.epoch + 1 if found else 1
        self._make(replace(save, epoch=epoch))
        return epoch

    async def save(self, saves: Sequence[Save], *, must_replicate: bool) -> list[Saved]:
        """See `Store`. There are no replicas."""
        self._sweep(len(saves))
        return [self._save(save) for save in saves]

    def _save(self, save: Save) -> Saved:
        found = self._get(save.session_id)
        is_open = found is not None and found.is_open
        saved = judge(save, found.epoch if found else None, is_open=is_open)
        if saved is Saved.DONE:
            if found and is_open:
                found.put(save)
            else:
                self._make(save)
        return saved

    def _make(self, save: Save) -> None:
        entry = self._entries[save.session_id] = _Entry(save.epoch, 0.0, True, save.head or b"")
        entry.put(save)

    async def acquire(self, session_id: str, epoch: int | None = None, seconds: float = 0.0) -> Record | None:
        """See `Store`."""
        found = self._get_open(session_id)
        if not found or epoch not in (None, found.epoch):
            return None
        found.epoch += 1
        found.expires = max(found.expires, monotonic() + seconds)
        return found.record(session_id)

    async def read(self, session_id: str) -> Record | None:
        """See `Store`."""
        found = self._get_open(session_id)
        return found.record(session_id) if found else None

    async def close(self, closings: Sequence[tuple[str, int]]) -> list[bool]:
        """See `Store`."""
        self._sweep(len(closings))
        return [self._close(session_id, epoch) for session_id, epoch in closings]

    def _close(self, session_id: str, epoch: int) -> bool:
        found = self._get(session_id)
        if found and found.epoch > epoch:
            return False
        self._entries[session_id] = _Entry(epoch, monotonic() + CLOSED_SECONDS)
        return True

    async def list(self, count: int, cursor: str = "") -> tuple[list[Record], str]:
        """See `Store`. A cursor is the last id."""
        names = nsmallest(count, (name for name in self._entries if name > cursor and self._get_open(name)))
        records = [self._entries[name].record(name) for name in names]
        records = [
            replace(record, head=record.head[:LISTED_BYTES], checkpoints=dict.fromkeys(record.checkpoints, b""))
            for record in records
        ]
        return records, names[-1] if len(names) == count else ""

    async def stop(self) -> None:
        """See `Store`. Another engine may still use it, so nothing goes."""

    def _get(self, session_id: str) -> _Entry | None:
        found = self._entries.get(session_id)
        return found if found and found.expires > monotonic() else None

    def _get_open(self, session_id: str) -> _Entry | None:
        found = self._get(session_id)
        return found if found and found.is_open else None

    def _sweep(self, num_written: int) -> None:
        # Two looks for each record that comes: what has expired goes faster than anything is added.
        for _ in range(min(2 * num_written, len(self._entries))):
            session_id, entry = self._entries.popitem(last=False)
            if entry.expires > monotonic():
                self._entries[session_id] = entry

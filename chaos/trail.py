"""What the replicas' logs say of a session: where it was, one replica after another."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from chaos.tally import clock

_TAKEN = ("session opened", "session resumed")
_LEFT = ("session closed",)
_LINE = re.compile(r"(\S+Z) \w+ +(.*)")


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """Something that happened at a replica, or to another part of the layout. `time` is in seconds since 1970."""

    time: float
    place: str
    event: str

    def __str__(self) -> str:
        return f"{clock(self.time)} {self.place}: {self.event}"


@dataclass(frozen=True, slots=True)
class Trail:
    """All that was logged of one session, oldest first."""

    entries: tuple[Entry, ...]

    @property
    def home(self) -> Entry | None:
        """How it came to the replica that had it last, and had not let it go in order; None if none had it."""
        homes: dict[str, Entry] = {}
        for entry in self.entries:
            if entry.event.startswith(_TAKEN):
                homes[entry.place] = entry
            elif entry.event.startswith(_LEFT):
                homes.pop(entry.place, None)
        return max(homes.values(), default=None)


def trails_of(session_ids: Iterable[str], logs: Iterable[Path]) -> dict[str, Trail]:
    """The trail of each session, from logs that are each called after their replica."""
    found: dict[str, list[Entry]] = {session_id: [] for session_id in session_ids}
    if not found:
        return {}
    any_id = re.compile("|".join(map(re.escape, found)))
    for log in logs:
        for line in log.read_text(errors="replace").splitlines():
            if (named := any_id.search(line)) and (parts := _LINE.fullmatch(line)):
                time = datetime.fromisoformat(parts[1]).timestamp()
                found[named[0]].append(Entry(time, log.stem, parts[2]))
    return {session_id: Trail(tuple(sorted(entries))) for session_id, entries in found.items()}

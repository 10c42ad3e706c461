"""Trials of files, and those that ended well: a server that comes back does not try again what it has tried."""

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path

from conveyor import __version__
from conveyor.engine.ort import RUNTIME_VERSION
from conveyor.engine.trial import Bounds, Verdict, try_file
from conveyor.graph.source import signature_path

# A part of the file at a time: a large one takes no more memory for being looked at.
_PIECE_BYTES = 1 << 20


class Trials:
    """Tries files within `bounds`, and keeps the verdicts in a folder. Without one, each is tried every time."""

    def __init__(self, bounds: Bounds, folder: Path | None) -> None:
        self._bounds = bounds
        self._folder = folder

    async def verdict(self, path: Path, max_batch: int) -> Verdict | None:
        """What a trial finds, or has found of this very file; None if there are to be no trials.

        Raises:
            ModelError: the file cannot be served; the message starts with its path.
        """
        if not self._bounds.seconds:
            return None
        bounds = replace(self._bounds, max_batch=max_batch)
        place = await asyncio.to_thread(self._place, path, bounds)
        if place is not None and (kept := _read(place)):
            return kept
        verdict = await try_file(path, bounds)
        if place is not None and place == await asyncio.to_thread(self._place, path, bounds):
            _write(place, verdict)
        return verdict

    def _place(self, path: Path, bounds: Bounds) -> Path | None:
        """Where the verdict of the file as it is now is kept; None if it is not."""
        digest = sha256()
        if self._folder is None:
            return None
        with suppress(OSError):  # whoever tries the file says what is wrong with it
            for piece in _pieces(path, bounds):
                digest.update(b"%d " % len(piece))
                digest.update(piece)
            return self._folder / f"{digest.hexdigest()}.json"
        return None


def _pieces(path: Path, bounds: Bounds) -> Iterator[bytes]:
    """All that a verdict depends on."""
    yield f"{__version__} {RUNTIME_VERSION} {bounds}".encode()
    if (beside := signature_path(path)).exists():
        yield beside.read_bytes()
    # Weights may lie in any file beside it. They are not read: they may be large, and hurt no reader.
    for entry in sorted(os.scandir(path.parent), key=lambda entry: entry.name):
        if entry.is_file():
            facts = entry.stat()
            yield f"{entry.name} {facts.st_size} {facts.st_mtime_ns}".encode(errors="surrogateescape")
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


def _read(place: Path) -> Verdict | None:
    with suppress(OSError, ValueError, TypeError):
        return Verdict(**json.loads(place.read_text()))
    return None


def _write(place: Path, verdict: Verdict) -> None:
    """Keeps a verdict. A folder that cannot be written only costs the time of another trial."""
    draft = place.with_suffix(f".{os.getpid()}")
    with suppress(OSError):
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.write_text(json.dumps(asdict(verdict)))
        draft.replace(place)

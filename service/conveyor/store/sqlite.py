"""Keeps checkpoints in an SQLite file, for the servers of one machine."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from conveyor.store.sessions_file import SessionsFile
from conveyor.store.store import Record, Save, Saved, StoreError

Answer = TypeVar("Answer")


class SqliteStore:
    """A `Store` of one file, which several processes may share. All work on it is done by one thread.

    An operation may take `timeout` seconds, and wait for half of them while another process keeps the file locked.
    """

    def __init__(self, path: Path, timeout: float = 5.0) -> None:
        self._path = path
        self._timeout = timeout
        self._file = SessionsFile(path, timeout / 2)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")

    async def create(self, saves: Sequence[Save], *, must_replicate: bool = False) -> list[int]:
        """See `Store`. There are no replicas."""
        return await self._do(lambda: self._file.create(saves))

    async def save(self, saves: Sequence[Save], *, must_replicate: bool) -> list[Saved]:
        """See `Store`. There are no replicas."""
        return await self._do(lambda: self._file.save(saves))

    async def acquire(self, session_id: str, epoch: int | None = None, seconds: float = 0.0) -> Record | None:
        """See `Store`."""
        return await self._do(lambda: self._file.acquire(session_id, epoch, seconds))

    async def read(self, session_id: str) -> Record | None:
        """See `Store`."""
        return await self._do(lambda: self._file.read(session_id))

    async def close(self, closings: Sequence[tuple[str, int]]) -> list[bool]:
        """See `Store`."""
        return await self._do(lambda: self._file.close_sessions(closings))

    async def list(self, count: int, cursor: str = "") -> tuple[list[Record], str]:
        """See `Store`."""
        return await self._do(lambda: self._file.list(count, cursor))

    async def stop(self) -> None:
        """See `Store`."""
        try:
            await self._do(self._file.close)
        finally:
            self._thread.shutdown(wait=False)

    async def _do(self, work: Callable[[], Answer]) -> Answer:
        # Work that is still in line when its time is over is not done any more.
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except TimeoutError:
            raise StoreError(f"{self._path}: no answer within {self._timeout:g} s") from None
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self._path}: {error}") from error

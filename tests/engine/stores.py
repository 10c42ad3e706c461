"""A store that can be in trouble."""

import asyncio
from collections.abc import Sequence

from conveyor.store import Record, Save, Saved, StoreError
from conveyor.store.memory import MemoryStore


class TroubledStore(MemoryStore):
    """A store that fails, hangs or forgets when it is told to, and notes what it was asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []  # of those that write: what, and how many sessions
        self.replicated: list[bool] = []
        self.saves: list[Save] = []
        self.entered, self.failed = asyncio.Event(), asyncio.Event()
        self._is_broken = self._is_lossy = False
        self._way = asyncio.Event()
        self._way.set()

    def fail(self) -> None:
        """From now on it raises, for what was held too."""
        self._is_broken = True
        self.failed.clear()
        self._way.set()

    def lose_answers(self) -> None:
        """From now on records are made, and it is not told."""
        self._is_lossy = True

    def hold(self) -> None:
        """From now on nothing is answered."""
        self.entered.clear()
        self._way.clear()

    def mend(self) -> None:
        """From now on all is well, and what was held is done."""
        self._is_broken = self._is_lossy = False
        self._way.set()

    def forget(self) -> None:
        """It restarts empty."""
        self._entries.clear()

    async def _enter(self) -> None:
        self.entered.set()
        await self._way.wait()
        if self._is_broken:
            self.failed.set()
            raise StoreError("it is broken")

    async def create(self, saves: Sequence[Save], *, must_replicate: bool = False) -> list[int]:
        self.calls.append(("create", len(saves)))
        await self._enter()
        epochs = await super().create(saves)
        if self._is_lossy:
            raise StoreError("no answer in time")
        return epochs

    async def save(self, saves: Sequence[Save], *, must_replicate: bool) -> list[Saved]:
        self.calls.append(("save", len(saves)))
        self.replicated.append(must_replicate)
        self.saves += saves
        await self._enter()
        return await super().save(saves, must_replicate=must_replicate)

    async def acquire(self, session_id: str, epoch: int | None = None, seconds: float = 0.0) -> Record | None:
        await self._enter()
        return await super().acquire(session_id, epoch, seconds)

    async def read(self, session_id: str) -> Record | None:
        await self._enter()
        return await super().read(session_id)

    async def close(self, closings: Sequence[tuple[str, int]]) -> list[bool]:
        self.calls.append(("close", len(closings)))
        await self._enter()
        return await super().close(closings)

    async def list(self, count: int, cursor: str = "") -> tuple[list[Record], str]:
        await self._enter()
        return await super().list(count, cursor)

"""Fills a small file system: `python -m tests.store.full_disk FOLDER`, in a mount namespace of its own.

Each failed assertion ends it with a traceback.
"""

import asyncio
import subprocess
import sys
from itertools import count
from pathlib import Path

from conveyor.store.sqlite import SqliteStore
from conveyor.store.store import Saved, StoreError
from tests.store.saves import opening_of, save_of


async def reason_of(coroutine: object) -> str:
    """The message of the failure that an operation ends with."""
    try:
        await coroutine  # type: ignore[misc]
    except StoreError as error:
        return str(error)
    raise AssertionError("it did not fail")


async def fill(store: SqliteStore) -> tuple[int, str]:
    """Saves checkpoints until no more fit; returns how many did, and the reason."""
    for position in count(1):
        try:
            await store.save([save_of(position=position, checkpoint=bytes(10_000))], must_replicate=False)
        except StoreError as error:
            return position - 1, str(error)
    raise AssertionError


def mount(*arguments: str | Path) -> None:
    """Runs that command."""
    subprocess.run(["mount", *arguments], check=True)


async def main(folder: Path) -> None:
    """A disk that is full, and one that is read-only."""
    mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", folder)
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(2 << 20))
    store = SqliteStore(folder / "sessions.db")
    await store.create([opening_of()])
    num_saved, reason = await fill(store)
    assert reason == f"{folder}/sessions.db: database or disk is full", reason
    assert num_saved > 50
    assert "full" in await reason_of(store.create([opening_of("b", bytes(100_000))]))
    assert sorted((await store.read("a")).checkpoints) == list(range(num_saved + 1))

    ballast.unlink()
    assert await store.save([save_of(position=num_saved + 1)], must_replicate=False) == [Saved.DONE]
    assert sorted((await store.read("a")).checkpoints) == list(range(num_saved + 2))

    await store.stop()
    mount("-o", "remount,ro", folder)
    store = SqliteStore(folder / "sessions.db")
    assert "Read-only file system" in await reason_of(store.acquire("a"))
    mount("-o", "remount,rw", folder)
    assert (await store.acquire("a")).epoch == 2
    await store.stop()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))

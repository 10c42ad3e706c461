"""A process of its own that writes to an SQLite store: `python -m tests.store.writer FILE ID`.

It saves a batch after another, each to two sessions, and tells each position on a line once it is acknowledged. It ends
when it is killed, or refused.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import TypeVar

from conveyor.store.sqlite import SqliteStore
from conveyor.store.store import Saved, StoreError
from tests.store.saves import opening_of, save_of

Result = TypeVar("Result")


async def write(path: Path, session_id: str) -> None:
    """Writes for ever."""
    store = SqliteStore(path)
    names = [session_id, f"{session_id} too"]
    assert await in_turn(lambda: store.create([opening_of(name) for name in names])) == [1, 1]
    for position in count(1):
        saves = [save_of(name, position, checkpoint=b"%d" % position * 1000, oldest=position - 1) for name in names]
        saved = await in_turn(partial(store.save, saves, must_replicate=False))
        if saved != [Saved.DONE] * 2:
            print(*(outcome.value for outcome in saved), flush=True)  # noqa: T201
            break
        print(position, flush=True)  # noqa: T201
    await store.stop()


async def in_turn(call: Callable[[], Awaitable[Result]]) -> Result:
    """Calls until the file is not another's: SQLite's lock goes to whoever is quick, not to whoever has waited."""
    while True:
        try:
            return await call()
        except StoreError as error:
            if "locked" not in str(error):
                raise


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1]), sys.argv[2]))

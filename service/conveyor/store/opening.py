"""Makes the store that a setting names."""

from pathlib import Path

from conveyor.store.memory import MemoryStore
from conveyor.store.sqlite import SqliteStore
from conveyor.store.store import Store

SQLITE_FILE = "sessions.db"


def open_store(text: str, state_dir: Path, num_replicas: int = 0) -> Store | None:
    """The store of a setting: `none`, `memory`, `sqlite`, or the URL of a Valkey server.

    Nothing is opened or asked yet: what is wrong with a store shows when it is used, and may be over by then.

    Raises:
        ValueError: the text names no store.
    """
    if text == "none":
        return None
    if text == "memory":
        return MemoryStore()
    if text == "sqlite":
        return SqliteStore(state_dir / SQLITE_FILE)
    raise ValueError("must be none, memory, sqlite, valkey://HOST:PORT/DB or valkeys://HOST:PORT/DB")

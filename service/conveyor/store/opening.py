"""Makes the store that a setting names."""

from pathlib import Path

from conveyor.store.memory import MemoryStore
from conveyor.store.sqlite import SqliteStore
from conveyor.store.store import Store

SQLITE_FILE = "sessions.db"


def open_store(text: str, state_dir: Path, num_replicas: int = 0) -> Store | None:
    """The store of a setting: `none`, `memory`, `sqlite`, or the URL of a Valkey server as `ValkeyStore` takes it.

    Nothing is opened or asked yet: what is wrong with a store shows when it is used, and may be over by then.

    Raises:
        ValueError: the text names no store, or one that has no replicas. The message does not repeat the text: there
            may be a password in it.
    """
    if text.startswith(("valkey://", "valkeys://")):
        return _open_valkey(text, num_replicas)
    if num_replicas:
        raise ValueError(f"only a Valkey store has replicas, and {num_replicas} were asked for")
    if text == "none":
        return None
    if text == "memory":
        return MemoryStore()
    if text == "sqlite":
        return SqliteStore(state_dir / SQLITE_FILE)
    raise ValueError("must be none, memory, sqlite, or a URL that begins with valkey:// or valkeys://")


def _open_valkey(url: str, num_replicas: int) -> Store:
    try:
        from conveyor.store.valkey import ValkeyStore
    except ModuleNotFoundError:
        raise ValueError("needs the extra named valkey: pip install 'conveyor-serve[valkey]'") from None
    return ValkeyStore(url, num_replicas)

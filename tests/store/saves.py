"""Saves for the tests, with what they do not care about left out."""

from conveyor.store.store import Record, Save, Store


def save_of(
    session_id: str = "a",
    position: int = 0,
    *,
    epoch: int = 1,
    checkpoint: bytes = b"state",
    oldest: int = 0,
    latest: int = 0,
    seconds: float = 600.0,
    head: bytes | None = None,
) -> Save:
    """A save of a session that lives for ten minutes, and keeps every checkpoint."""
    return Save(session_id, epoch, position, checkpoint, oldest, seconds, head, latest)


def opening_of(session_id: str = "a", checkpoint: bytes = b"first", seconds: float = 600.0) -> Save:
    """What opens a session."""
    return save_of(session_id, checkpoint=checkpoint, seconds=seconds, head=b"head of " + session_id.encode())


async def read_pages(store: Store, count: int) -> dict[str, Record]:
    """All that a store lists, page by page."""
    found, cursor = {}, ""
    while True:
        records, cursor = await store.list(count, cursor)
        found |= {record.session_id: record for record in records}
        if not cursor:
            return found

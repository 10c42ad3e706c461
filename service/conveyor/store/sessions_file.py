"""The SQLite file of the embedded store, used by one thread at a time."""

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any

from conveyor.store.store import CLOSED_SECONDS, LISTED_BYTES, Record, Save, Saved, judge

# Rows of one statement. Old versions of SQLite take 32,766 parameters.
MOST_ROWS = 1000
# With the write-ahead log, NORMAL hands a commit to the operating system before it is acknowledged: it outlives this
# process, however that ends. Only FULL would wait for the disk too, at every batch; without it a power cut or a crash
# of the machine takes the last moments' commits, and leaves the file whole.
# A log of 16 MiB is written back less often than SQLite's usual 4 MiB, and cut to 64 MiB if a batch made it longer.
# Overwriting what is deleted would be for naught.
PRAGMAS = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA wal_autocheckpoint = 4096;
PRAGMA journal_size_limit = 67108864;
PRAGMA cache_size = -65536;
PRAGMA secure_delete = OFF;
"""
# Pages of what was deleted are used again, so the file is as large as it was at most. Times are seconds since 1970.
TABLES = """
CREATE TABLE IF NOT EXISTS sessions (
    session_id TEXT PRIMARY KEY, epoch INTEGER NOT NULL, is_open INTEGER NOT NULL, expires REAL NOT NULL);
CREATE INDEX IF NOT EXISTS sessions_by_expires ON sessions (expires);
CREATE TABLE IF NOT EXISTS heads (session_id TEXT PRIMARY KEY, head BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS checkpoints (
    session_id TEXT, position INTEGER, epoch INTEGER NOT NULL, checkpoint BLOB NOT NULL,
    PRIMARY KEY (session_id, position));
"""
# SQLite releases Python's lock in every step of a statement, and beside a busy event loop it waits milliseconds to get
# it back. So each statement treats a whole batch, and what it finds comes as one row.
FIND = """
SELECT json_group_array(json_array(session_id, epoch, is_open)) FROM sessions
WHERE expires > ? AND session_id IN ({marks})
"""
PUT_SESSIONS = """
INSERT INTO sessions (session_id, epoch, is_open, expires) VALUES {rows}
ON CONFLICT (session_id) DO UPDATE SET epoch = excluded.epoch, is_open = excluded.is_open, expires = excluded.expires
"""
DROP_CHECKPOINTS = """
WITH saves (session_id, epoch, position, oldest, latest) AS (VALUES {rows})
DELETE FROM checkpoints WHERE rowid IN (
    SELECT old.rowid FROM saves JOIN checkpoints AS old ON old.session_id = saves.session_id
    WHERE old.position < saves.oldest OR (old.position > saves.oldest AND old.position < saves.latest)
        OR (old.epoch < saves.epoch AND old.position >= saves.position))
"""
PUT_CHECKPOINTS = "INSERT OR REPLACE INTO checkpoints (session_id, position, epoch, checkpoint) VALUES {rows}"
PUT_HEADS = "INSERT OR REPLACE INTO heads (session_id, head) VALUES {rows}"
ACQUIRE = """
UPDATE sessions SET epoch = epoch + 1, expires = MAX(expires, ?)
WHERE session_id = ? AND is_open AND expires > ? AND epoch = COALESCE(?, epoch)
"""
READ = """
SELECT epoch, head FROM sessions JOIN heads USING (session_id) WHERE session_id = ? AND is_open AND expires > ?
"""
LIST = """
SELECT json_group_array(json_array(session_id, epoch, head, json(positions))) FROM (
    SELECT session_id, epoch, hex(substr(head, 1, ?)) AS head, (
        SELECT json_group_array(position) FROM checkpoints WHERE session_id = sessions.session_id) AS positions
    FROM sessions JOIN heads USING (session_id)
    WHERE session_id > ? AND is_open AND expires > ? ORDER BY session_id LIMIT ?)
"""
EXPIRED = "SELECT json_group_array(session_id) FROM (SELECT session_id FROM sessions WHERE expires <= ? LIMIT ?)"


class SessionsFile:
    """Records in a file that several processes may have open. It is opened when first needed, and again after trouble.

    Every method raises sqlite3.Error or OSError. `timeout` is how long, in seconds, another process may keep the file
    locked.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    def create(self, saves: Sequence[Save]) -> list[int]:
        """See `Store`."""
        with self._transaction("IMMEDIATE", len(saves)):
            return [epoch for some in _cut(saves) for epoch in self._create(some)]

    def _create(self, saves: Sequence[Save]) -> list[int]:
        known, epochs, made = self._find(save.session_id for save in saves), [], []
        for save in saves:
            epoch, is_open = known.get(save.session_id, (0, False))
            epochs.append(0 if is_open else epoch + 1)
            if not is_open:
                known[save.session_id] = epoch + 1, True
                made.append(replace(save, epoch=epoch + 1))
        self._make(made)
        return epochs

    def save(self, saves: Sequence[Save]) -> list[Saved]:
        """See `Store`."""
        with self._transaction("IMMEDIATE", len(saves)):
            return [saved for some in _cut(saves) for saved in self._save(some)]

    def _save(self, saves: Sequence[Save]) -> list[Saved]:
        known = self._find(save.session_id for save in saves)
        outcomes: list[Saved] = []
        kept: list[Save] = []
        made: list[Save] = []
        for save in saves:
            epoch, is_open = known.get(save.session_id, (None, False))
            outcomes.append(judge(save, epoch, is_open=is_open))
            if outcomes[-1] is Saved.DONE:
                (kept if is_open else made).append(save)
        self._put(kept)
        self._make(made)
        return outcomes

    def acquire(self, session_id: str, epoch: int | None, seconds: float) -> Record | None:
        """See `Store`."""
        now = time.time()
        with self._transaction("IMMEDIATE"):
            num_raised = self._run(ACQUIRE, [now + seconds, session_id, now, epoch]).rowcount
            return self._read(session_id) if num_raised else None

    def read(self, session_id: str) -> Record | None:
        """See `Store`."""
        with self._transaction("DEFERRED"):
            return self._read(session_id)

    def _read(self, session_id: str) -> Record | None:
        found = self._run(READ, [session_id, time.time()]).fetchone()
        if found is None:
            return None
        epoch, head = found
        checkpoints = self._run("SELECT position, checkpoint FROM checkpoints WHERE session_id = ?", [session_id])
        return Record(session_id, epoch, head, dict(checkpoints.fetchall()))

    def close_sessions(self, closings: Sequence[tuple[str, int]]) -> list[bool]:
        """See `Store.close`."""
        with self._transaction("IMMEDIATE", len(closings)):
            return [was_closed for some in _cut(closings) for was_closed in self._close_some(some)]

    def _close_some(self, closings: Sequence[tuple[str, int]]) -> list[bool]:
        known = self._find(session_id for session_id, _ in closings)
        are_closed = [known.get(session_id, (0, False))[0] <= epoch for session_id, epoch in closings]
        ended = list(compress(closings, are_closed))
        self._erase([session_id for session_id, _ in ended])
        self._run_rows(PUT_SESSIONS, [(*closing, False, time.time() + CLOSED_SECONDS) for closing in ended])
        return are_closed

    def list(self, count: int, cursor: str) -> tuple[list[Record], str]:
        """See `Store`. A cursor is the last id."""
        with self._transaction("DEFERRED"):
            rows = json.loads(self._run(LIST, [LISTED_BYTES, cursor, time.time(), count]).fetchone()[0])
        records = [
            Record(session_id, epoch, bytes.fromhex(head), dict.fromkeys(positions, b""))
            for session_id, epoch, head, positions in rows
        ]
        return records, records[-1].session_id if len(records) == count else ""

    def close(self) -> None:
        """Gives up a transaction that is under way, and closes the file."""
        if self._connection:
            connection, self._connection = self._connection, None
            connection.close()

    @contextmanager
    def _transaction(self, kind: str, num_written: int = 0) -> Iterator[None]:
        try:
            self._open()
            self._run(f"BEGIN {kind}")
            # Two for each record that comes: what has expired goes faster than anything is added.
            if num_written:
                self._erase(json.loads(self._run(EXPIRED, [time.time(), 2 * num_written]).fetchone()[0]))
            yield
            self._run("COMMIT")
        except BaseException:
            self.close()  # whatever was wrong with the file or the disk may be mended when it is opened again
            raise

    def _open(self) -> sqlite3.Connection:
        # A file that was put away while it was open would take saves that nobody finds again.
        if self._connection and not self._is_in_place():
            self.close()
        if not self._connection:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.touch(mode=0o600)
            self._inode = self._path.stat().st_ino
            self._connection = sqlite3.connect(
                self._path, timeout=self._timeout, isolation_level=None, check_same_thread=False
            )
            self._connection.executescript(PRAGMAS + TABLES)
        return self._connection

    def _is_in_place(self) -> bool:
        return self._path.exists() and self._path.stat().st_ino == self._inode

    def _find(self, session_ids: Iterable[str]) -> dict[str, tuple[int, bool]]:
        """Epoch, and whether it is open, of each that has not expired."""
        ids = list(session_ids)
        (found,) = self._run(FIND.format(marks=",".join("?" * len(ids))), [time.time(), *ids]).fetchone()
        return {session_id: (epoch, bool(is_open)) for session_id, epoch, is_open in json.loads(found)}

    def _make(self, saves: Sequence[Save]) -> None:
        self._erase([save.session_id for save in saves])
        self._run_rows(PUT_HEADS, [(save.session_id, save.head) for save in saves])
        self._put(saves)

    def _put(self, saves: Sequence[Save]) -> None:
        now = time.time()
        self._run_rows(PUT_SESSIONS, [(save.session_id, save.epoch, True, now + save.seconds) for save in saves])
        rows = [(save.session_id, save.epoch, save.position, save.oldest, save.latest) for save in saves]
        self._run_rows(DROP_CHECKPOINTS, rows)
        self._run_rows(
            PUT_CHECKPOINTS, [(save.session_id, save.position, save.epoch, save.checkpoint) for save in saves]
        )

    def _erase(self, session_ids: Sequence[str]) -> None:
        for some in _cut(session_ids):
            for table in ("sessions", "heads", "checkpoints"):
                marks = ",".join("?" * len(some))
                self._run(f"DELETE FROM {table} WHERE session_id IN ({marks})", some)  # noqa: S608

    def _run(self, statement: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        return (self._connection or self._open()).execute(statement, parameters)

    def _run_rows(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if rows:
            marks = f"({','.join('?' * len(rows[0]))})"
            self._run(statement.format(rows=",".join([marks] * len(rows))), [value for row in rows for value in row])


def _cut(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (rows[start : start + MOST_ROWS] for start in range(0, len(rows), MOST_ROWS))

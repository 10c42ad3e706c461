"""What is SQLite's own: processes that share a file or are killed, damaged files, full disks, size and speed."""

import asyncio
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conveyor.store.sessions_file import TABLES
from conveyor.store.sqlite import SqliteStore
from conveyor.store.store import Record, Saved, StoreError
from tests.store.saves import opening_of, save_of
from tests.store.writer import in_turn


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is to be."""
    return tmp_path / "sessions.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    """A store of that file."""
    store = SqliteStore(path, timeout=1.0)
    yield store
    await store.stop()


@contextmanager
def writer(path: Path, session_id: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that saves one batch after another."""
    command = [sys.executable, "-m", "tests.store.writer", str(path), session_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_a_killed_process_loses_nothing_that_it_was_promised(path: Path, store: SqliteStore) -> None:
    """Wherever it is killed, the last acknowledged batch is there whole, and at most the one behind it."""
    for turn in range(3):
        name = f"s{turn}"
        with writer(path, name) as process:
            for _ in range(50 + turn):
                process.stdout.readline()
            process.kill()
            acknowledged = 50 + turn + len(process.stdout.read().splitlines())
        one, other = await store.read(name), await store.read(f"{name} too")

        assert max(one.checkpoints) in (acknowledged, acknowledged + 1)
        assert one.checkpoints == other.checkpoints
        assert one.checkpoints[acknowledged] == b"%d" % acknowledged * 1000


async def test_processes_share_a_file(path: Path) -> None:
    """Both open it at once when it is not there yet, write beside each other, and one fences the other off."""
    with writer(path, "a") as one, writer(path, "b") as other:
        for _ in range(100):
            one.stdout.readline()
            other.stdout.readline()
        store = SqliteStore(path)
        record = await in_turn(lambda: store.acquire("a"))
        refused = one.stdout.read().splitlines()[-1]
        other.stdout.readline()
        other.kill()
        taken = await in_turn(lambda: store.save([save_of("a", 1_000_000, epoch=2)], must_replicate=False))
        await store.stop()

    assert record.epoch == 2
    assert refused == "fenced done"
    assert taken == [Saved.DONE]


async def test_many_may_open_a_new_file_at_once(path: Path) -> None:
    """Whoever comes first makes its tables."""
    stores = [SqliteStore(path) for _ in range(8)]

    assert await asyncio.gather(*(store.create([opening_of(f"s{n}")]) for n, store in enumerate(stores))) == [[1]] * 8
    await asyncio.gather(*(store.stop() for store in stores))


async def test_a_lock_is_waited_for_and_not_for_ever(path: Path, store: SqliteStore) -> None:
    """Half of the operation's time; afterwards all goes on."""
    await store.create([opening_of()])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    saving = asyncio.create_task(store.save([save_of(position=10)], must_replicate=False))
    await asyncio.sleep(0.1)
    other.execute("COMMIT")
    assert await saving == [Saved.DONE]

    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match=r"sessions\.db: database is locked"):
        await store.save([save_of(position=20)], must_replicate=False)
    assert sorted((await store.read("a")).checkpoints) == [0, 10]
    other.execute("COMMIT")
    other.close()

    assert await store.save([save_of(position=20)], must_replicate=False) == [Saved.DONE]


async def test_the_event_loop_is_never_held_up(path: Path, store: SqliteStore) -> None:
    """Nor is an operation waited for longer than it may take, be it behind others; what was given up is not done."""
    await store.create([opening_of()])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    saves = [asyncio.create_task(store.save([save_of(position=n)], must_replicate=False)) for n in range(1, 5)]
    longest = 0.0
    while not all(save.done() for save in saves):
        before = time.monotonic()
        await asyncio.sleep(0.001)
        longest = max(longest, time.monotonic() - before)
    other.execute("COMMIT")
    other.close()

    assert longest < 0.2
    reasons = [str(save.exception()).removeprefix(f"{path}: ") for save in saves]
    assert reasons == ["database is locked", *["no answer within 1 s"] * 3]
    assert await store.save([save_of(position=9)], must_replicate=False) == [Saved.DONE]
    assert {3, 4}.isdisjoint((await store.read("a")).checkpoints)


async def test_a_damaged_file_is_told_and_may_be_replaced(path: Path, store: SqliteStore) -> None:
    """It is left as it is; once it has been put away, the store begins anew."""
    damaged = b"no database at all, but long enough to be taken for one" * 1000
    path.write_bytes(damaged)

    for _ in range(2):
        with pytest.raises(StoreError, match=r"sessions\.db: file is not a database"):
            await store.create([opening_of()])
    assert path.replace(f"{path}.damaged").read_bytes() == damaged
    assert await store.create([opening_of()]) == [1]


async def test_damage_in_the_middle_of_a_file_is_told(path: Path) -> None:
    """Where it is met, however well the file has opened; other sessions may still be served."""
    store = SqliteStore(path)
    names = [f"s{number}" for number in range(200)]
    await store.create([opening_of(name, bytes(4000)) for name in names])
    await store.stop()
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * 100_000)

    store = SqliteStore(path)
    outcomes = await asyncio.gather(*(store.read(name) for name in names), return_exceptions=True)
    await store.stop()
    assert {str(outcome) for outcome in outcomes if isinstance(outcome, StoreError)} == {
        f"{path}: database disk image is malformed"
    }
    assert not any(isinstance(outcome, sqlite3.Error) for outcome in outcomes)


async def test_a_file_that_was_put_away_takes_no_saves(path: Path, store: SqliteStore) -> None:
    """The store makes another where it was, as any other process would."""
    await store.create([opening_of("a"), opening_of("b")])
    path.unlink()
    beside = SqliteStore(path)

    assert await store.save([save_of("a", 10)], must_replicate=False) == [Saved.GONE]
    assert await store.save([save_of("a", 10, head=b"head")], must_replicate=False) == [Saved.DONE]
    assert (await beside.acquire("a")).checkpoints == {10: b"state"}
    assert await store.save([save_of("a", 20)], must_replicate=False) == [Saved.FENCED]
    await beside.stop()


async def test_a_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    """A file is where the folder should be; when it is gone all is well."""
    (tmp_path / "state").write_text("a file")
    store = SqliteStore(tmp_path / "state" / "sessions.db")
    with pytest.raises(StoreError, match="File exists"):
        await store.create([opening_of()])
    (tmp_path / "state").unlink()

    assert await store.create([opening_of()]) == [1]
    await store.stop()


@pytest.mark.skipif(shutil.which("unshare") is None, reason="mounts a small disk with unshare")
def test_a_disk_that_is_full_or_read_only(tmp_path: Path) -> None:
    """Told as such; what was acknowledged is there, and saves are taken again when there is room."""
    alone = ["unshare", "--mount", "--map-root-user"]
    if subprocess.run([*alone, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a disk")

    subprocess.run([*alone, sys.executable, "-m", "tests.store.full_disk", str(tmp_path)], check=True)


async def test_the_file_does_not_grow_with_what_is_over(path: Path, store: SqliteStore) -> None:
    """The room of expired, closed and dropped checkpoints is used again, and nobody has to ask for them."""
    sizes = []
    for turn in range(12):
        names = [f"{turn} {number}" for number in range(100)]
        await store.create([opening_of(name, bytes(4096), seconds=0.001) for name in names])
        await asyncio.sleep(0.002)
        sizes.append(used_bytes(path))

    assert max(sizes[4:]) <= sizes[3] * 1.1


def used_bytes(path: Path) -> int:
    """Bytes of a database, what is only in its log included."""
    with sqlite3.connect(path) as connection:
        (num_pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.close()
    return int(num_pages) * 4096


async def test_a_large_file_opens_at_once(path: Path) -> None:
    """A hundred thousand sessions, half of them expired, delay neither the first operation nor those after it."""
    connection = sqlite3.connect(path)
    connection.executescript(TABLES)
    connection.executescript("""
        CREATE TEMP TABLE numbers AS
        WITH RECURSIVE some (n) AS (VALUES (0) UNION ALL SELECT n + 1 FROM some LIMIT 100000) SELECT n FROM some;
        INSERT INTO sessions SELECT 's' || n, 1, 1, strftime('%s', 'now') + iif(n % 2, 600, -600) FROM numbers;
        INSERT INTO heads SELECT 's' || n, x'00' FROM numbers;
        INSERT INTO checkpoints SELECT 's' || n, 0, 1, zeroblob(100) FROM numbers;
    """)
    connection.close()
    store = SqliteStore(path)
    started = time.monotonic()
    assert await store.acquire("s1") == Record("s1", 2, b"\0", {0: bytes(100)})
    assert await store.save([save_of("s1", epoch=2)], must_replicate=False) == [Saved.DONE]
    assert await store.create([opening_of("s2")]) == [1]
    assert len((await store.list(100))[0]) == 100
    seconds = time.monotonic() - started
    await store.stop()

    assert seconds < 0.5


async def test_a_store_that_is_stopped_leaves_all_in_one_file(path: Path) -> None:
    """The log is written back, and the next store finds everything."""
    for turn in range(2):
        store = SqliteStore(path)
        assert await store.create([opening_of()]) == [0 if turn else 1]
        await store.stop()

    assert [found.name for found in path.parent.iterdir()] == ["sessions.db"]

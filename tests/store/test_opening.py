"""The words that name a store."""

import sys
from pathlib import Path

import pytest

from conveyor.store.memory import MemoryStore
from conveyor.store.opening import open_store
from conveyor.store.sqlite import SqliteStore
from conveyor.store.store import StoreError
from conveyor.store.valkey import ValkeyStore
from tests.store.saves import opening_of
from tests.store.servers import ValkeyProcess


def test_each_word_names_a_store(tmp_path: Path) -> None:
    """And `none` is none."""
    assert open_store("none", tmp_path) is None
    assert isinstance(open_store("memory", tmp_path), MemoryStore)
    assert isinstance(open_store("sqlite", tmp_path), SqliteStore)
    assert isinstance(open_store("valkey://host", tmp_path), ValkeyStore)
    assert isinstance(open_store("valkeys://user:word@host:1234/5", tmp_path, 2), ValkeyStore)


async def test_the_file_is_in_the_state_folder(tmp_path: Path) -> None:
    """Which is made when it is needed, for its owner alone."""
    folder = tmp_path / "deep" / "state"
    store = open_store("sqlite", folder)
    assert not folder.exists()
    await store.create([opening_of()])
    await store.stop()

    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {"sessions.db": 0o600}


async def test_replicas_are_waited_for(shared_valkey: ValkeyProcess, tmp_path: Path) -> None:
    """The number goes to the store: of a server that has none, none answers."""
    shared_valkey.command("FLUSHALL")
    store = open_store(shared_valkey.url, tmp_path, 1)
    await store.create([opening_of()])

    with pytest.raises(StoreError, match="0 of 1 replicas"):
        await store.save([opening_of()], must_replicate=True)
    await store.stop()


@pytest.mark.parametrize("text", ["", "sqlite3", "Memory", "redis://host", "/var/lib/sessions.db", "valkey:host"])
def test_other_words_are_refused(text: str, tmp_path: Path) -> None:
    """With those that there are."""
    with pytest.raises(ValueError, match="must be none, memory, sqlite, or a URL that begins with valkey:// or"):
        open_store(text, tmp_path)


@pytest.mark.parametrize(
    "rest",
    ["", "/0", ":6379", "u:s3cret@", "u:s3cret@host:port", "u:s3cret@host:0", "u:s3/cret@host", "u:s3cret@host/zero",
     "u:s3cret@host/1/2", "u:s3cret@host?db=1", "u:s3cret@host#1", "u:s3cret@[host", "u:s3cret@host:65536"],
)  # fmt: skip
def test_a_malformed_url_is_refused_and_not_repeated(rest: str, tmp_path: Path) -> None:
    """The message tells the form; a password is in neither it nor what led to it."""
    with pytest.raises(ValueError, match="must be valkey://USER:PASSWORD@HOST:PORT/DB") as failure:
        open_store(f"valkeys://{rest}", tmp_path)

    assert "s3" not in str(failure.value)
    assert failure.value.__cause__ is None
    assert failure.value.__suppress_context__ or failure.value.__context__ is None


@pytest.mark.parametrize("text", ["none", "memory", "sqlite"])
def test_only_valkey_has_replicas(text: str, tmp_path: Path) -> None:
    """To ask another store for them is a mistake that should not go unseen."""
    with pytest.raises(ValueError, match="only a Valkey store has replicas"):
        open_store(text, tmp_path, 1)


def test_without_its_library_valkey_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install; the other stores need nothing."""
    monkeypatch.delitem(sys.modules, "conveyor.store.valkey")
    monkeypatch.delitem(sys.modules, "conveyor.store.valkey_server")
    monkeypatch.setitem(sys.modules, "valkey.asyncio.connection", None)

    with pytest.raises(ValueError, match=r"conveyor-serve\[valkey\]"):
        open_store("valkey://host", tmp_path)
    assert isinstance(open_store("sqlite", tmp_path), SqliteStore)

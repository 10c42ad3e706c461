"""Each kind of store, the real thing."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from conveyor.store.memory import MemoryStore
from conveyor.store.sqlite import SqliteStore
from conveyor.store.store import Store
from conveyor.store.valkey import ValkeyStore
from tests.store.servers import ValkeyProcess, running_valkey

KINDS = ("memory", "sqlite", "valkey")


@pytest.fixture(scope="session")
def shared_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyProcess]:
    """A server for the tests that do it no harm. They empty it."""
    with running_valkey(tmp_path_factory.mktemp("valkey")) as process:
        yield process


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyProcess]:
    """A server for one test, which may do with it as it likes."""
    with running_valkey(tmp_path) as process:
        yield process


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An empty store of each kind."""
    store: Store
    if request.param == "memory":
        store = MemoryStore()
    elif request.param == "sqlite":
        store = SqliteStore(tmp_path / "sessions.db")
    else:
        server = request.getfixturevalue("shared_valkey")
        server.command("FLUSHALL")
        store = ValkeyStore(server.url)
    yield store
    await store.stop()

"""A server for the tests of the client."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from conveyor.client import Client, connect
from tests.client.serving import Proxy, ServerProcess, serving, write_models


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def server(models: Path) -> Iterator[ServerProcess]:
    with serving(models) as process:
        yield process


@pytest.fixture
async def client(server: ServerProcess) -> AsyncIterator[Client]:
    async with connect(server.address) as client:
        yield client


@pytest.fixture
async def proxy(server: ServerProcess) -> AsyncIterator[Proxy]:
    async with Proxy(server.address) as proxy:
        yield proxy

"""A real server on a free port, with a language model `tiny` and a model of feature frames `frames`."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from conveyor.server import Server, start_server
from conveyor.settings import Settings
from conveyor.v1 import sequence_service_pb2_grpc
from tests.models import make_feature_model, make_model, save_model

StartServer = Callable[..., Awaitable[Server]]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of both models."""
    folder = tmp_path_factory.mktemp("models")
    save_model(folder / "tiny" / "1", make_model()[0])
    save_model(folder / "frames" / "3", make_feature_model()[0])
    return folder


@pytest.fixture
async def start(models: Path) -> AsyncIterator[StartServer]:
    """Starts servers with the settings given, and stops them after the test."""
    async with AsyncExitStack() as stack:

        async def start_one(**settings: Any) -> Server:
            fixed = {"models": models, "port": 0, "metrics_port": 0, "num_threads": 1, "num_slots": 8, "max_batch": 8}
            fixed |= {"store": "none", "trial_seconds": 0}
            return await stack.enter_async_context(
                await start_server(Settings(**{**fixed, "drain_timeout": 0.2, **settings}))
            )

        yield start_one


@dataclass(frozen=True)
class Peer:
    """A server and its calls."""

    server: Server
    stub: Any


@pytest.fixture
async def join(start: StartServer, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Peer]]]:
    """Starts servers of one store, and connects to them. A checkpoint is stored after four steps, not after a time."""
    shared = {"store": "sqlite", "state_dir": tmp_path / "state", "checkpoint_steps": 4, "checkpoint_seconds": 3600.0}
    async with AsyncExitStack() as stack:

        async def join_one(**settings: Any) -> Peer:
            server = await start(**{**shared, **settings})
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.address))
            return Peer(server, sequence_service_pb2_grpc.SequenceServiceStub(channel))

        yield join_one


@pytest.fixture
async def pair(join: Callable[..., Awaitable[Peer]]) -> tuple[Peer, Peer]:
    """Two servers of one store."""
    return await join(), await join()


@pytest.fixture
async def server(start: StartServer) -> Server:
    """A server with the usual settings."""
    return await start()


@pytest.fixture
async def channel(server: Server) -> AsyncIterator[grpc.aio.Channel]:
    """A connection to it."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> Any:
    """Its calls."""
    return sequence_service_pb2_grpc.SequenceServiceStub(channel)

"""A server of a folder of models, for as long as a demo needs it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from conveyor.client import Client, connect
from conveyor.server import start_server
from conveyor.settings import Settings


@asynccontextmanager
async def serve(folder: Path) -> AsyncIterator[Client]:
    """A client of a server that is stopped at the end, on ports that are free."""
    settings = Settings(models=folder, port=0, metrics_port=0, num_threads=1)
    async with await start_server(settings) as server, connect(server.address) as client:
        yield client

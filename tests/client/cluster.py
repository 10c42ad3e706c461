"""Servers in this process that share a store, and a proxy that leads a client to one of them at a time."""

from pathlib import Path
from typing import Any, Self

from conveyor.server import Server, start_server
from conveyor.settings import Settings
from tests.client.serving import Proxy


class Cluster:
    """Some servers of one store. `address` leads to the one that was chosen last, at first to the first."""

    def __init__(self, models: Path, state_dir: Path, num_servers: int = 2, **settings: Any) -> None:
        common = {"models": models, "state_dir": state_dir, "port": 0, "metrics_port": 0, "num_threads": 1}
        self._settings = Settings(**{**common, "trial_seconds": 0, "drain_timeout": 5.0, **settings})
        self._num_servers = num_servers
        self.servers: list[Server] = []
        self._stopped: list[Server] = []

    async def __aenter__(self) -> Self:
        self.servers = [await start_server(self._settings) for _ in range(self._num_servers)]
        self.proxy = await Proxy(self.servers[0].address).__aenter__()
        self.address = self.proxy.address
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.proxy.__aexit__()
        for server in self.servers:
            if server not in self._stopped:
                await server.stop()

    async def stop(self, number: int) -> None:
        """Stops a server in order; new connections go to another."""
        self._stopped.append(self.servers[number])
        self.proxy.redirect(self.servers[1 - number].address)
        await self.servers[number].stop()

    def fail_over(self, number: int) -> None:
        """Cuts every connection and leads new ones to another server. The one before keeps what it holds."""
        self.proxy.redirect(self.servers[number].address)
        self.proxy.is_mute = self.proxy.is_deaf = False
        self.proxy.cut()

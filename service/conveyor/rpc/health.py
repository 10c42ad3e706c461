"""`grpc.health.v1`: the server, its service and each model; a liveness that draining leaves alone; the store."""

import asyncio
from collections.abc import Callable, Collection, Iterable

from grpc_health.v1.health import aio
from grpc_health.v1.health_pb2 import HealthCheckResponse

# A draining server must not be restarted for it: liveness probes ask for this name, readiness probes for "".
LIVENESS = "conveyor.liveness"
# A name of its own, because a server whose store is gone still serves: it must not be taken out of service for it.
STORE = "conveyor.store"
STORE_INTERVAL = 1.0  # seconds between looks at the store


class Health(aio.HealthServicer):  # type: ignore[misc]
    """Answers NOT_SERVING until `serve`, and again from `drain` on."""

    is_serving = False

    async def begin(self, names: Iterable[str]) -> None:
        """Names what will be served, the models aside."""
        self._names = ("", *names)
        self._models: dict[str, bool] = {}
        for name in self._names:
            await self.set(name, HealthCheckResponse.NOT_SERVING)
        await self.set(LIVENESS, HealthCheckResponse.SERVING)

    async def show_models(self, names: Iterable[str], open_names: Collection[str]) -> None:
        """Tells of which models sessions can be opened; one that is not named any more is served no more."""
        self._models = dict.fromkeys(self._models, False) | {name: name in open_names for name in names}
        await self._show()

    async def serve(self) -> None:
        """The server takes work."""
        self.is_serving = True
        await self._show()

    async def drain(self) -> None:
        """New work is to go elsewhere."""
        self.is_serving = False
        await self._show()

    async def follow_store(self, is_up: Callable[[], bool]) -> None:
        """Says whether the store answers, until cancelled. Without one it is SERVING."""
        while True:
            await self.set(STORE, HealthCheckResponse.SERVING if is_up() else HealthCheckResponse.NOT_SERVING)
            await asyncio.sleep(STORE_INTERVAL)

    async def _show(self) -> None:
        for name, is_open in {**dict.fromkeys(self._names, True), **self._models}.items():
            is_serving = self.is_serving and is_open
            await self.set(name, HealthCheckResponse.SERVING if is_serving else HealthCheckResponse.NOT_SERVING)

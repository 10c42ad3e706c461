"""The HTTP server that Prometheus scrapes, on a thread of its own."""

import asyncio
from collections.abc import Callable

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import Metric

from conveyor.telemetry.collector import MetricsCollector
from conveyor.telemetry.metrics import Metrics

SCRAPE_SECONDS = 5.0  # how long a scrape waits for the event loop


class MetricsEndpoint:
    """Serves `/metrics` from when it is made, on the event loop's thread, until it is closed.

    Raises:
        OSError: the port cannot be listened on.
    """

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        loop = asyncio.get_running_loop()

        # The numbers belong to the loop's thread: a scrape reads them there, between two of its turns.
        def call(read: Callable[[], list[Metric]]) -> list[Metric]:
            async def on_loop() -> list[Metric]:
                return read()

            return asyncio.run_coroutine_threadsafe(on_loop(), loop).result(SCRAPE_SECONDS)

        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(MetricsCollector(metrics, call))
        self._server, self._thread = start_http_server(port, host, registry)
        self.port: int = self._server.server_port

    async def close(self) -> None:
        """Stops listening. The loop must still run, for a scrape that is under way."""
        await asyncio.to_thread(self._server.shutdown)
        self._server.server_close()
        await asyncio.to_thread(self._thread.join)

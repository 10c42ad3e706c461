"""The server as a whole: start up, serve, shut down."""

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Callable
from typing import Self

from conveyor.engine.engines import Engines
from conveyor.engine.store_writer import StoreWriter
from conveyor.engine.trial import Bounds
from conveyor.repository import Repository
from conveyor.repository.folder import read_folder
from conveyor.repository.loader import Loader
from conveyor.repository.seal_key import open_seal
from conveyor.repository.trials import Trials
from conveyor.rpc.server import RpcServer, join_address
from conveyor.settings import Settings
from conveyor.telemetry.endpoint import MetricsEndpoint
from conveyor.telemetry.metrics import Metrics

log = logging.getLogger("conveyor.server")

# The event loop and the run threads share the interpreter: a thread that comes back from ONNX Runtime waits this long
# at most for a busy loop to let it in, instead of Python's 5 ms.
SWITCH_SECONDS = 0.00005
# Steps make no cycles, but many objects: at Python's own thresholds, looking for cycles among them costs about a
# microsecond a step.
COLLECT_AFTER = (50_000, 20, 50)
GRACE_SECONDS = 2.0  # to send what is ready, once nothing runs any more


class Server:
    """A running server. Made by `start_server`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.metrics = Metrics()
        self.engines = Engines(())

    @property
    def address(self) -> str:
        """Where gRPC listens."""
        return join_address(self._settings.host, self.port)

    @property
    def metrics_address(self) -> str:
        """Where the metrics are."""
        return join_address(self._settings.host, self.metrics_port)

    async def start(self) -> None:
        """Listens, loads the models and serves.

        Raises:
            OSError: a port cannot be listened on.
            ModelError: none of the models can be served.
        """
        tune_interpreter()
        settings = self._settings
        read_folder(settings.models)  # a wrong path is told of before anything else
        store = settings.open_store()
        self._writer = StoreWriter(store) if store else None
        seal = open_seal(settings.seal_key, settings.state_dir if store else None)
        self._rpc = RpcServer(settings.host, settings.port, self.metrics, settings.max_message_bytes)
        self.port = self._rpc.port
        try:
            self._endpoint = _open_endpoint(self.metrics, settings)
        except BaseException:
            await self._rpc.close()
            raise
        self.metrics_port = self._endpoint.port
        self.engines = self.metrics.engines = Engines((), self._writer, seal, settings.default_durability())
        if self._writer:
            self._writer.start()
        try:
            await self._load_models()
        except BaseException:
            await self._rpc.close()
            await self._release(0)
            raise
        await self._rpc.start(self.engines, self.repository, settings.max_stream_steps)

    async def _load_models(self) -> None:
        settings = self._settings
        limits, device, room = settings.limits(), settings.device(), settings.max_arena_bytes
        bounds = Bounds(settings.trial_bytes, settings.trial_seconds, settings.max_batch)
        trials = Trials(bounds, settings.state_dir / "trials" if self._writer else None)
        loader = Loader(self.engines, limits, device, trials, self.metrics, self._writer, room)
        times = settings.unload_timeout, settings.drain_timeout
        self.repository = Repository(settings.models, self.engines, loader, *times)
        self.metrics.problems = self.repository.problems
        await self.repository.start(settings.poll_seconds)

    async def drain(self) -> None:
        """Refuses new work, lets accepted work finish for at most `drain_timeout`, then ends every session."""
        log.info("draining", extra={"seconds": self._settings.drain_timeout})
        await self.repository.stop()
        await self._rpc.drain()
        await asyncio.gather(*(engine.drain(self._settings.drain_timeout) for engine in self.engines.all()))

    async def stop(self) -> None:
        """Drains, ends the streams and closes the ports."""
        await self.drain()
        await self._close(GRACE_SECONDS)

    async def kill(self) -> None:
        """Stops at once; work in flight is lost."""
        log.warning("stopping without draining")
        await self._close(0)

    async def _close(self, grace: float) -> None:
        await self.repository.stop()
        await self._rpc.stop(grace)
        await self._release(grace)
        log.info("stopped")

    async def _release(self, grace: float) -> None:
        for engine in self.engines.all():
            await engine.stop()
        if self._writer:
            await self._writer.stop(grace)
        await self._endpoint.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def tune_interpreter() -> None:
    """Sets this process's Python up for an engine: quick changes between threads, rare garbage collection."""
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.set_threshold(*COLLECT_AFTER)


async def start_server(settings: Settings) -> Server:
    """Starts a server in this process, on the running event loop; `async with` stops it.

    Raises:
        OSError: a port cannot be listened on.
        ModelError: none of the models can be served.
    """
    server = Server(settings)
    await server.start()
    return server


async def serve(settings: Settings, announce: Callable[[Server], None]) -> None:
    """Runs a server until SIGTERM or SIGINT: the first drains it, a second one stops it at once.

    `announce` is called once it serves.

    Raises:
        OSError, ModelError: as `start_server`.
    """
    loop = asyncio.get_running_loop()
    signals = Signals(loop)
    starting = loop.create_task(start_server(settings))
    await _first_of(starting, signals.first)
    if not starting.done():
        starting.cancel()
        return
    server = await starting
    announce(server)
    await signals.first.wait()
    stopping = loop.create_task(server.stop())
    await _first_of(stopping, signals.second)
    if stopping.done():
        await stopping
    else:
        stopping.cancel()
        await server.kill()


class Signals:
    """The two stages of a shutdown, as events."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._receive)

    def _receive(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


async def _first_of(task: "asyncio.Task[object]", event: asyncio.Event) -> None:
    """Waits until the task is done or the event is set."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


def _open_endpoint(metrics: Metrics, settings: Settings) -> MetricsEndpoint:
    try:
        return MetricsEndpoint(metrics, settings.host, settings.metrics_port)
    except OSError as error:
        address = join_address(settings.host, settings.metrics_port)
        raise OSError(f"cannot serve metrics on {address}: {error.strerror or error}") from error

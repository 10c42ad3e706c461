"""The server as a whole: start up, serve, shut down."""

import asyncio
import gc
import logging
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from conveyor.engine.engine import Engine
from conveyor.engine.engines import Engines
from conveyor.engine.store_writer import StoreWriter
from conveyor.engine.trial import Bounds, try_foreign
from conveyor.graph.errors import ModelError
from conveyor.graph.model_file import read_model
from conveyor.repository import Entry, find_models
from conveyor.repository.seal_key import open_seal
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
            ModelError: a model cannot be served.
        """
        tune_interpreter()
        settings = self._settings
        entries = find_models(settings.models)
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
        try:
            self._tried = await asyncio.to_thread(self._try, entries)
            engines = [await self._load(entry) for entry in entries]
            self.engines = Engines(engines, self._writer, seal, settings.default_durability())
            self.metrics.engines = self.engines
        except BaseException:
            await self._rpc.close()
            await self._endpoint.close()
            raise
        if self._writer:
            self._writer.start()
        for engine in self.engines.all():
            engine.start()
        await self._rpc.start(self.engines, settings.max_stream_steps)

    def _try(self, entries: list[Entry]) -> dict[Path, str]:
        """Loads the files of others in a process that they may crash; returns their fingerprints."""
        settings = self._settings
        bounds = Bounds(settings.trial_bytes, settings.trial_seconds, settings.max_batch)
        return try_foreign([entry.path for entry in entries], bounds)

    async def _load(self, entry: Entry) -> Engine:
        begun = time.perf_counter()
        metrics = self.metrics.of_model(entry.name, entry.version)
        limits, device = self._settings.limits(), self._settings.device()

        def load() -> Engine:
            model = read_model(entry.path)
            if self._tried.get(entry.path, model.fingerprint) != model.fingerprint:
                raise ModelError(f"{entry.path}: it has changed while the server started")
            if model.source != "metadata":
                found = {"model": entry.name, "source": model.source, "why": "; ".join(model.decisions)}
                log.info("signature found", extra=found)
            try:
                return Engine(model, entry.name, entry.version, limits, device, metrics, self._writer)
            except ModelError as error:
                raise ModelError(f"{entry.path}: {error}") from error

        engine = await asyncio.to_thread(load)
        metrics.load_seconds = time.perf_counter() - begun
        fields = {"model": entry.name, "version": entry.version, "seconds": round(metrics.load_seconds, 3)}
        log.info("model loaded", extra=fields)
        return engine

    async def drain(self) -> None:
        """Refuses new work, lets accepted work finish for at most `drain_timeout`, then ends every session."""
        log.info("draining", extra={"seconds": self._settings.drain_timeout})
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
        await self._rpc.stop(grace)
        for engine in self.engines.all():
            await engine.stop()
        if self._writer:
            await self._writer.stop(grace)
        await self._endpoint.close()
        log.info("stopped")

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
        ModelError: a model cannot be served.
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

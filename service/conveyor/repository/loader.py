"""Loads a version of a model and warms it up, on a thread, if there is room for its arenas."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from conveyor.engine.engine import Engine
from conveyor.engine.engines import Engines
from conveyor.engine.limits import Device, Limits
from conveyor.engine.store_writer import StoreWriter
from conveyor.engine.trial import Verdict
from conveyor.graph.errors import ModelError
from conveyor.graph.model_file import ModelFile, read_model
from conveyor.repository.folder import SETTINGS_NAME, Entry, ModelFolder
from conveyor.repository.model_settings import ModelSettings, read_settings
from conveyor.repository.trials import Trials
from conveyor.telemetry.metrics import Metrics

log = logging.getLogger("conveyor.repository")


class Loader:
    """Makes engines. `limits` and `device` are the server's, which a model's own settings go before.

    A file is tried first, in a process of its own.

    The arenas of all `engines` together may take `max_arena_bytes`, 0 for as much as there is.
    """

    def __init__(
        self,
        engines: Engines,
        limits: Limits,
        device: Device,
        trials: Trials,
        metrics: Metrics,
        writer: StoreWriter | None,
        max_arena_bytes: int = 0,
    ) -> None:
        self._engines = engines
        self._limits, self._device = limits, device
        self._trials = trials
        self._metrics = metrics
        self._writer = writer
        self._max_arena_bytes = max_arena_bytes

    def settings_of(self, folder: ModelFolder) -> ModelSettings:
        """A model's settings, over the server's. Raises ModelError."""
        return read_settings(folder.path / SETTINGS_NAME, self._limits, self._device)

    async def load(self, entry: Entry, settings: ModelSettings) -> Engine:
        """An engine that is warm and started.

        Raises:
            ModelError: it cannot be served, or there is no room for it; the message starts with the file.
        """
        begun = time.perf_counter()
        with _problems_of(entry.path):
            verdict = await self._trials.verdict(entry.path, settings.limits.max_batch)
            engine = await asyncio.to_thread(self._make, entry, settings, verdict)
        engine.start()
        metrics = self._metrics.of_model(entry.name, entry.version)
        metrics.load_seconds = time.perf_counter() - begun
        fields = {"model": entry.name, "version": entry.version, "seconds": round(metrics.load_seconds, 3)}
        log.info("model loaded", extra=fields)
        return engine

    async def fingerprint(self, path: Path) -> str:
        """The fingerprint of a model as its files are now. Raises ModelError."""
        with _problems_of(path):
            verdict = await self._trials.verdict(path, self._limits.max_batch)
            return verdict.fingerprint if verdict else (await asyncio.to_thread(read_model, path)).fingerprint

    def _make(self, entry: Entry, settings: ModelSettings, verdict: Verdict | None) -> Engine:
        model = read_model(entry.path)
        if verdict and verdict.fingerprint != model.fingerprint:
            raise ModelError(f"{entry.path}: it has changed while it was loaded")
        if verdict and verdict.alone_because:
            model = replace(model, alone_because=verdict.alone_because)
            log.warning("one session in a run: %s", model.alone_because, extra={"model": entry.name})
        if model.source != "metadata":
            found = {"model": entry.name, "source": model.source, "why": "; ".join(model.decisions)}
            log.info("signature found", extra=found)
        self._check_room(model, settings.limits)
        metrics = self._metrics.of_model(entry.name, entry.version)
        return Engine(model, entry.name, entry.version, settings.limits, settings.device, metrics, self._writer)

    def _check_room(self, model: ModelFile, limits: Limits) -> None:
        if not self._max_arena_bytes:
            return
        # As the runner makes them, but for the rows that pad a GPU's batches.
        num_rows, signature = limits.num_rows, model.signature
        needed = num_rows * signature.state_bytes + (num_rows + 2 * limits.max_batch) * signature.context_bytes
        left = self._max_arena_bytes - sum(engine.runner.arena_bytes for engine in self._engines.all())
        if needed > left:
            raise ModelError(
                f"its arenas need {needed} bytes for {limits.num_slots} slots, and of max_arena_bytes "
                f"{max(0, left)} are left: give it fewer slots"
            )


@contextmanager
def _problems_of(path: Path) -> Iterator[None]:
    """Whatever the readers and the runtime raise is this file's problem, and the other models go on."""
    try:
        yield
    except Exception as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(problem if problem.startswith(f"{path}: ") else f"{path}: {problem}") from error

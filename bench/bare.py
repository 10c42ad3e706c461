"""Bare ONNX Runtime: `session.run` on one thread, one step a run, the states carried by the caller."""

import asyncio
from pathlib import Path
from time import perf_counter

import numpy as np
import onnxruntime as ort

from bench.measurement import Measurement, Watch
from bench.model import HIDDEN, VOCABULARY

PAUSE_SECONDS = 0.0005


class Bare:
    """The model file as it is, with nothing around it."""

    def __init__(self, model: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    async def start(self) -> None:
        """Nothing is left to do."""

    async def measure(self, batch: int, seconds: float) -> Measurement:
        """Steps `batch` sequences at once."""
        tokens = np.random.default_rng(0).integers(0, VOCABULARY, (1, batch))
        h = c = np.zeros((1, batch, HIDDEN), np.float32)
        watch, begun = Watch(seconds), perf_counter()
        while watch.lap(begun, batch):
            await self.wait()
            begun = perf_counter()
            _, h, c = self._session.run(None, {"tokens": tokens, "h": h, "c": c})
        return watch.measurement()

    async def wait(self) -> None:
        """Between two runs: not at all."""


class PacedBare(Bare):
    """With the pause between runs that a lone session leaves: a model's weights don't stay in the caches through it."""

    async def wait(self) -> None:
        """Between two runs: about as long as a message takes to the client and back."""
        await asyncio.sleep(PAUSE_SECONDS)

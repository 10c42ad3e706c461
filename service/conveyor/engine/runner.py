"""Runs the serving graph on one batch, then the heads on its logits. All state stays in the arenas."""

from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime

from conveyor.engine.arena import ArenaStore, DeviceArenas, HostArenas, Rows
from conveyor.engine.assembly import from_layout
from conveyor.engine.feeds import Feeds, Results
from conveyor.engine.limits import Device
from conveyor.engine.ort import CUDA, Placement, make_session, node_placement
from conveyor.engine.threads import run_threads
from conveyor.engine.work import Array
from conveyor.graph.arena import Scatter
from conveyor.graph.heads import sample_head, score_head, top_head
from conveyor.graph.model_file import ModelFile
from conveyor.graph.serving import build_serving_graph


class Runner:
    """A loaded model. `run` is called by one thread at a time, and on CUDA always by the same one.

    `num_rows` counts the arenas' rows, row 0 included.
    """

    def __init__(self, model: ModelFile, num_rows: int, device: Device) -> None:
        num_threads = run_threads(device.num_threads)
        self.graph = build_serving_graph(model, num_rows=None, scatter=Scatter.ND)
        self._session = make_session(self.graph.proto.SerializeToString(), device, num_threads)
        self.is_cuda = self._session.get_providers()[0] == CUDA
        if self.is_cuda:
            self.graph = build_serving_graph(model, num_rows=num_rows, scatter=Scatter.ELEMENTS)
            self._session = make_session(self.graph.proto.SerializeToString(), device, num_threads)
        self._arenas = self._make_arenas(num_rows, device)
        self._num_rows = num_rows
        self._where = ("cuda", device.device_id) if self.is_cuda else ("cpu", 0)
        self._specs = {spec.name: spec for spec in model.signature.outputs}
        self._logits = model.signature.logits
        self._heads = _Heads(device, self._where) if self._logits else None
        self._binding = self._session.io_binding()
        for name, value in self._arenas.values.items():
            self._binding.bind_ortvalue_input(name, value)

    def _make_arenas(self, num_rows: int, device: Device) -> ArenaStore:
        if not self.is_cuda:
            return HostArenas(self.graph.arenas, num_rows)
        for arena in self.graph.arenas:
            arena.check_rows(num_rows)
        return DeviceArenas(self.graph.arenas, num_rows, device, Scatter.ELEMENTS)

    @property
    def arena_bytes(self) -> int:
        """Bytes of all arenas."""
        return sum(self._num_rows * arena.width * np.dtype(arena.dtype).itemsize for arena in self.graph.arenas)

    def initial_rows(self) -> Rows:
        """A new session's state, by arena."""
        return self.graph.initial_rows()

    def placement(self) -> list[Placement]:
        """Where each node of the serving graph runs."""
        return node_placement(self._session)

    def run(self, feeds: Feeds, results: Results) -> None:
        """Spills, restores, advances the batch and reads what was asked for, filling `results` as it goes.

        Raises:
            ValueError: a slot is outside the arenas: some providers would write elsewhere without a word.
        """
        started = perf_counter()
        self._check_slots(feeds)
        if feeds.spill_slots:
            results.spilled = self._arenas.read(feeds.spill_slots)
        if feeds.restores:
            slots, rows = zip(*feeds.restores, strict=True)
            self._arenas.write(slots, rows)
        outputs = self._advance(feeds)
        if self._heads and self._logits:
            self._heads.run(feeds, outputs.get(self._logits.name), results)
        for name in feeds.outputs:
            results.outputs[name] = from_layout(outputs[name].numpy(), self._specs[name])
        results.run_seconds = perf_counter() - started

    def _check_slots(self, feeds: Feeds) -> None:
        slots = (feeds.read_slots, feeds.write_slots)
        if min(map(np.min, slots)) < 0 or max(map(np.max, slots)) >= self._num_rows:
            raise ValueError(f"slot outside the arena of {self._num_rows} rows: {slots}")

    def _advance(self, feeds: Feeds) -> dict[str, onnxruntime.OrtValue]:
        binding = self._binding
        for name, array in feeds.inputs.items():
            binding.bind_cpu_input(name, array)
        if self.graph.is_ragged:
            binding.bind_cpu_input("conveyor.lengths", feeds.lengths)
        binding.bind_cpu_input("conveyor.read_slots", feeds.read_slots)
        binding.bind_cpu_input("conveyor.write_slots", feeds.write_slots[:, np.newaxis])
        names = self._outputs_of(feeds)
        binding.clear_binding_outputs()
        for name in names:
            binding.bind_output(name, *self._where)
        for name, value in self._arenas.values.items():
            binding.bind_ortvalue_output(f"{name}.out", value)
        self._session.run_with_iobinding(binding)
        return dict(zip(names, binding.get_outputs(), strict=False))

    def _outputs_of(self, feeds: Feeds) -> list[str]:
        names = list(feeds.outputs)
        if self._logits and (feeds.top or feeds.score or feeds.sample) and self._logits.name not in names:
            names.append(self._logits.name)
        return names


class _Heads:
    """Small graphs that look at chosen rows of the logits where these are, so that only their findings move."""

    def __init__(self, device: Device, where: tuple[str, int]) -> None:
        models = {"top": top_head(), "score": score_head(), "sample": sample_head()}
        self._sessions = {name: make_session(m.SerializeToString(), device, 1) for name, m in models.items()}
        self._bindings = {name: session.io_binding() for name, session in self._sessions.items()}
        self._where = where

    def run(self, feeds: Feeds, logits: onnxruntime.OrtValue | None, results: Results) -> None:
        if feeds.top:
            tokens, scores = self._run("top", logits, rows=feeds.top.rows, k=np.array([feeds.top.k], np.int64))
            results.top_tokens, results.top_scores = tokens.tolist(), scores.tolist()
        if feeds.score:
            (scores,) = self._run("score", logits, rows=feeds.score.rows, targets=feeds.score.targets)
            results.scores = scores.tolist()
        if feeds.sample:
            s = feeds.sample
            fields = {name: getattr(s, name) for name in s.__slots__}
            tokens, scores = self._run("sample", logits, **fields)
            results.sampled_tokens, results.sampled_scores = tokens.tolist(), scores.tolist()

    def _run(self, head: str, logits: onnxruntime.OrtValue | None, **feeds: Any) -> list[Array]:
        session, binding = self._sessions[head], self._bindings[head]
        binding.bind_ortvalue_input("logits", logits)
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        binding.clear_binding_outputs()
        for output in session.get_outputs():
            binding.bind_output(output.name, "cpu")
        session.run_with_iobinding(binding)
        return [value.numpy() for value in binding.get_outputs()]

"""Ways to hand a run its arrays: bound anew for every run, or copied into buffers that stay where they are."""

from typing import Any, Protocol

import numpy as np
import onnxruntime

from conveyor.engine.arena import ArenaStore
from conveyor.engine.buckets import bucket_of, bucket_sizes, padded_arrays
from conveyor.engine.feeds import Feeds
from conveyor.engine.work import Array
from conveyor.graph.serving import ServingGraph
from conveyor.signature import TensorSpec

Where = tuple[str, int]  # device name and number, as ONNX Runtime takes them


class Binding(Protocol):
    """Runs the serving graph on feeds."""

    def run(self, feeds: Feeds, outputs: list[str]) -> dict[str, onnxruntime.OrtValue]:
        """The named outputs, on the device."""


class FreeBinding:
    """Any number of sessions and steps: inputs are bound where they lie, outputs are allocated by the run."""

    def __init__(
        self, session: onnxruntime.InferenceSession, graph: ServingGraph, arenas: ArenaStore, where: Where
    ) -> None:
        self._session = session
        self._is_ragged = graph.is_ragged
        self._arenas = arenas
        self._where = where
        self._binding = session.io_binding()
        for name, value in arenas.values.items():
            self._binding.bind_ortvalue_input(name, value)

    def run(self, feeds: Feeds, outputs: list[str]) -> dict[str, onnxruntime.OrtValue]:
        binding = self._binding
        for name, array in feeds.inputs.items():
            binding.bind_cpu_input(name, array)
        if self._is_ragged:
            binding.bind_cpu_input("conveyor.lengths", feeds.lengths)
        binding.bind_cpu_input("conveyor.read_slots", feeds.read_slots)
        binding.bind_cpu_input("conveyor.write_slots", feeds.write_slots[:, np.newaxis])
        binding.clear_binding_outputs()
        for name in outputs:
            binding.bind_output(name, *self._where)
        for name, value in self._arenas.values.items():
            binding.bind_ortvalue_output(f"{name}.out", value)
        self._session.run_with_iobinding(binding)
        return dict(zip(outputs, binding.get_outputs(), strict=False))


class FixedBindings:
    """Single steps, padded to one of a few batch sizes, in buffers that were allocated and bound beforehand.

    A host array bound to a GPU's input is copied when it is bound, and its address differs every time; here only the
    contents change. `first_scratch` is the first of `max_batch` rows of the arenas that padding may write.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        graph: ServingGraph,
        arenas: ArenaStore,
        where: Where,
        max_batch: int,
        first_scratch: int,
    ) -> None:
        self._session = session
        self._graph = graph
        self._first_scratch = first_scratch
        self._sizes = bucket_sizes(max_batch)
        self._names = {node.name for node in session.get_inputs()} - set(arenas.values)
        self._bindings = {size: self._bind(size, arenas, where) for size in self._sizes}

    def run(self, feeds: Feeds, outputs: list[str]) -> dict[str, onnxruntime.OrtValue]:
        size = bucket_of(len(feeds.read_slots), self._sizes)
        binding, inputs, values = self._bindings[size]
        arrays = padded_arrays(feeds, self._graph.signature, size, self._first_scratch)
        for name, value in inputs.items():
            value.update_inplace(np.ascontiguousarray(arrays[name]))
        self._session.run_with_iobinding(binding)
        return {name: values[name] for name in outputs}

    def _bind(self, size: int, arenas: ArenaStore, where: Where) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        binding = self._session.io_binding()
        shapes = {s.name: (shape_of(s, size), s.dtype) for s in self._graph.signature.inputs}
        shapes["conveyor.lengths"] = [size], "int32"
        shapes["conveyor.read_slots"] = [size], "int64"
        shapes["conveyor.write_slots"] = [size, 1], "int64"
        inputs = {name: _buffer(*shapes[name], where) for name in sorted(self._names)}
        outputs = {s.name: _buffer(shape_of(s, size), s.dtype, where) for s in self._graph.signature.outputs}
        for name, value in (inputs | arenas.values).items():
            binding.bind_ortvalue_input(name, value)
        for name, value in (outputs | {f"{name}.out": value for name, value in arenas.values.items()}).items():
            binding.bind_ortvalue_output(name, value)
        return binding, inputs, outputs


def shape_of(spec: TensorSpec, num_sessions: int) -> list[int]:
    """The graph's own shape of a stream tensor for one step of so many sessions."""
    shape = list(spec.shape)
    for axis, length in sorted(
        (a, n) for a, n in ((spec.axis.batch, num_sessions), (spec.axis.time, 1)) if a is not None
    ):
        shape.insert(axis, length)
    return shape


def _buffer(shape: list[int], dtype: str, where: Where) -> onnxruntime.OrtValue:
    zeros: Array = np.zeros(shape, dtype)
    return onnxruntime.OrtValue.ortvalue_from_numpy(zeros, *where)

"""Ways to hand a run its arrays: bound anew for every run, or copied into buffers that stay where they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnxruntime

from conveyor.engine.arena import ArenaStore
from conveyor.engine.buckets import fill_buffers, make_buffers, step_shape
from conveyor.engine.feeds import Feeds
from conveyor.engine.work import Array
from conveyor.graph import CONTEXT_SLOTS, LENGTHS, READ_SLOTS, WRITE_SLOTS, ServingGraph

Where = tuple[str, int]  # device name and number, as ONNX Runtime takes them


class Binding(Protocol):
    """Runs the serving graph on feeds."""

    def run(self, feeds: Feeds, outputs: list[str]) -> dict[str, onnxruntime.OrtValue]:
        """The named outputs, on the device."""


class FreeBinding:
    """Any number of sessions and steps: inputs are bound where they lie, outputs are allocated by the run."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        graph: ServingGraph,
        arenas: ArenaStore,
        contexts: ArenaStore,
        where: Where,
    ) -> None:
        self._session = session
        self._is_ragged = graph.is_ragged
        self._has_contexts = bool(graph.contexts)
        self._arenas = arenas
        self._where = where
        self._binding = session.io_binding()
        for name, value in (arenas.values | contexts.values).items():
            self._binding.bind_ortvalue_input(name, value)

    def run(self, feeds: Feeds, outputs: list[str]) -> dict[str, onnxruntime.OrtValue]:
        binding = self._binding
        for name, array in feeds.inputs.items():
            binding.bind_cpu_input(name, array)
        if self._is_ragged:
            binding.bind_cpu_input(LENGTHS, feeds.lengths)
        if self._arenas.values:
            binding.bind_cpu_input(READ_SLOTS, feeds.read_slots)
            binding.bind_cpu_input(WRITE_SLOTS, feeds.write_slots[:, np.newaxis])
        if self._has_contexts:
            binding.bind_cpu_input(CONTEXT_SLOTS, feeds.context_slots)
        binding.clear_binding_outputs()
        for name in outputs:
            binding.bind_output(name, *self._where)
        for name, value in self._arenas.values.items():
            binding.bind_ortvalue_output(f"{name}.out", value)
        self._session.run_with_iobinding(binding)
        return dict(zip(outputs, binding.get_outputs(), strict=False))


class FixedBindings:
    """Single steps in buffers that were allocated and bound beforehand, one set for each of a few batch sizes.

    On the CPU the buffers are the graph's own memory: binding costs nothing any more, which a lone session feels. On
    a GPU their contents are copied to where the graph expects them; a bound host array would be copied when it is
    bound, and lie elsewhere every time. A run of fewer sessions is padded; `first_scratch` is the first of as many
    rows of the arenas as the largest size, for the padding to write.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        graph: ServingGraph,
        arenas: ArenaStore,
        contexts: ArenaStore,
        where: Where,
        sizes: Sequence[int],
        first_scratch: int,
    ) -> None:
        self._session = session
        self._signature = graph.signature
        self._first_scratch = first_scratch
        self._is_on_host = where[0] == "cpu"
        self._names = {node.name for node in session.get_inputs()} - arenas.values.keys() - contexts.values.keys()
        bound = {size: self._bind(size, arenas, contexts, where) for size in sizes}
        self._sizes = [next(bound[size] for size in sizes if size >= count) for count in range(max(sizes) + 1)]

    @property
    def max_batch(self) -> int:
        """Most sessions of a run."""
        return len(self._sizes) - 1

    def run(self, feeds: Feeds, outputs: list[str]) -> dict[str, onnxruntime.OrtValue]:
        bound = self._sizes[len(feeds.read_slots)]
        fill_buffers(bound.buffers, feeds, self._signature, self._first_scratch)
        if not self._is_on_host:
            for name, value in bound.inputs.items():
                value.update_inplace(bound.buffers[name])
        self._session.run_with_iobinding(bound.binding)
        return bound.outputs

    def _bind(self, size: int, arenas: ArenaStore, contexts: ArenaStore, where: Where) -> "_Bound":
        buffers = make_buffers(self._signature, size)
        value_of = onnxruntime.OrtValue.ortvalue_from_numpy
        inputs = {name: value_of(buffers[name], *where) for name in self._names}
        outputs = {s.name: value_of(np.zeros(step_shape(s, size), s.dtype), *where) for s in self._signature.outputs}
        binding = self._session.io_binding()
        for name, value in (inputs | arenas.values | contexts.values).items():
            binding.bind_ortvalue_input(name, value)
        for name, value in (outputs | {f"{name}.out": value for name, value in arenas.values.items()}).items():
            binding.bind_ortvalue_output(name, value)
        return _Bound(binding, buffers, inputs, outputs)


@dataclass(frozen=True, slots=True)
class _Bound:
    binding: Any
    buffers: dict[str, Array]
    inputs: dict[str, onnxruntime.OrtValue]
    outputs: dict[str, onnxruntime.OrtValue]

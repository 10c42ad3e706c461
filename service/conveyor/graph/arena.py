"""How all sessions' states and contexts lie in arenas: a tensor `[rows, width]` for each dtype, a session to a row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from conveyor.graph.builder import GraphBuilder
from conveyor.graph.checks import captured_names, subgraphs
from conveyor.graph.errors import ModelError
from conveyor.signature import ContextSpec, Signature, StateSpec, TensorSpec

ARENA_PREFIX = "conveyor.arena."
CONTEXT_PREFIX = "conveyor.context."
CONTEXT_SLOTS = "conveyor.context_slots"
READ_SLOTS = "conveyor.read_slots"
WRITE_SLOTS = "conveyor.write_slots"

# CUDA kernels of Gather and ScatterElements count elements in 32 bits.
MAX_CUDA_ELEMENTS = 2**31 - 1


class Scatter(Enum):
    """The operator that writes rows into an arena.

    ND copies whole rows on the CPU, but on CUDA one thread copies one row. ELEMENTS has a thread for each element on
    CUDA, but a slow loop on the CPU.
    """

    ND = "ScatterND"
    ELEMENTS = "ScatterElements"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where one state or context lies in a row: `size` elements from `offset`."""

    spec: TensorSpec
    offset: int
    size: int

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def first(self) -> tuple[float, ...] | None:
        """What a state begins with, and a context has that nobody gives; None for zeros."""
        if isinstance(self.spec, StateSpec):
            return self.spec.initial
        return self.spec.default if isinstance(self.spec, ContextSpec) else None

    @property
    def output(self) -> str:
        """The model's output that replaces it; a context has none."""
        return self.spec.output if isinstance(self.spec, StateSpec) else ""


@dataclass(frozen=True, slots=True)
class Arena:
    """One tensor `[rows, width]` that holds every state, or every context, of its dtype, side by side.

    `name` is the serving graph's input.
    """

    name: str
    dtype: str
    width: int
    layouts: tuple[Layout, ...]

    @property
    def output(self) -> str:
        """The graph output, to be bound to the same memory as the input."""
        return f"{self.name}.out"

    @property
    def row_bytes(self) -> int:
        return self.width * np.dtype(self.dtype).itemsize

    def row(self, values: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """A row `[width]` of one session's tensors by name, of their own shapes; those without are as at first."""
        row = np.zeros(self.width, self.dtype)
        for layout in self.layouts:
            place = row[layout.offset : layout.offset + layout.size]
            if layout.name in values:
                place[:] = np.reshape(values[layout.name], layout.size)  # one number would fill it too
            elif (first := layout.first) is not None:
                place[:] = first
        return row


def check_arena_size(arena: Arena, num_rows: int) -> None:
    """Refuses an arena that CUDA could not address.

    Raises:
        ModelError: the arena would have 2**31 elements or more.
    """
    if num_rows * arena.width > MAX_CUDA_ELEMENTS:
        most = MAX_CUDA_ELEMENTS // arena.width
        raise ModelError(f"{num_rows} rows of {arena.width} {arena.dtype} are too many for CUDA: at most {most} rows")


def pack_states(signature: Signature) -> tuple[Arena, ...]:
    """Lays out the states, in the signature's order, in one arena for each dtype."""
    return _pack(ARENA_PREFIX, signature.states)


def pack_contexts(contexts: Sequence[TensorSpec]) -> tuple[Arena, ...]:
    """Lays out contexts in the same way."""
    return _pack(CONTEXT_PREFIX, contexts)


def _pack(prefix: str, specs: Sequence[TensorSpec]) -> tuple[Arena, ...]:
    layouts: dict[str, list[Layout]] = {}
    for spec in specs:
        row = layouts.setdefault(spec.dtype, [])
        offset = row[-1].offset + row[-1].size if row else 0
        row.append(Layout(spec, offset, prod(spec.shape)))
    return tuple(
        Arena(f"{prefix}{dtype}", dtype, row[-1].offset + row[-1].size, tuple(row)) for dtype, row in layouts.items()
    )


def add_read(graph: GraphBuilder, arena: Arena, slots: str = READ_SLOTS) -> None:
    """Adds the arena's one Gather, and what turns its rows into the model's inputs of states or contexts."""
    rows = graph.add("Gather", [arena.name, slots], axis=0)
    parts = [rows]
    if len(arena.layouts) > 1:
        sizes = graph.constant([layout.size for layout in arena.layouts])
        names = [f"{rows}.{layout.name}" for layout in arena.layouts]
        parts = list(graph.add_many("Split", [rows, sizes], names, axis=1))
    for layout, part in zip(arena.layouts, parts, strict=True):
        _add_unpack(graph, layout.spec, part)


def add_write(graph: GraphBuilder, arena: Arena, scatter: Scatter) -> None:
    """Adds what packs the model's new states into rows, and the arena's one scatter."""
    parts = [_add_pack(graph, layout) for layout in arena.layouts]
    rows = graph.add("Concat", parts, axis=1) if len(parts) > 1 else parts[0]
    add_scatter(graph, scatter, arena.name, WRITE_SLOTS, rows, arena.output, arena.width)


def add_scatter(
    graph: GraphBuilder, scatter: Scatter, arena: str, slots: str, rows: str, output: str, width: int
) -> None:
    """Writes rows `[B, width]` at slots `[B, 1]`, from the graph's input to its output, or it could not be in place."""
    if scatter is Scatter.ND:
        graph.add("ScatterND", [arena, slots, rows], output)
    else:
        everywhere = graph.add("Expand", [slots, graph.constant([1, width])])
        graph.add("ScatterElements", [arena, everywhere, rows], output, axis=0)


def _add_unpack(graph: GraphBuilder, spec: TensorSpec, part: str) -> None:
    """`[B, size]` to the tensor's own shape: its axes in order, then the batch axis to its place."""
    batch = spec.axis.batch
    if isinstance(spec, ContextSpec) and spec.is_constant:  # all sessions of a run have the first one's
        part = graph.add("Gather", [part, graph.constant([0])], axis=0)
    if batch is None:
        graph.add("Reshape", [part, graph.constant(spec.shape)], spec.name)
    elif prod(spec.shape[:batch]) == 1:  # moving an axis past axes of length 1 moves no data
        shape = (*spec.shape[:batch], -1, *spec.shape[batch:])
        graph.add("Reshape", [part, graph.constant(shape)], spec.name)
    else:
        whole = graph.add("Reshape", [part, graph.constant((-1, *spec.shape))])
        order = [*range(1, batch + 1), 0, *range(batch + 1, spec.rank)]
        graph.add("Transpose", [whole], spec.name, perm=order)


def _add_pack(graph: GraphBuilder, layout: Layout) -> str:
    """The reverse of `_add_unpack`, from the state's output."""
    spec = layout.spec
    batch, value = spec.axis.batch, layout.output
    if batch is not None and prod(spec.shape[:batch]) > 1:
        order = [batch, *range(batch), *range(batch + 1, spec.rank)]
        value = graph.add("Transpose", [value], perm=order)
    return graph.add("Reshape", [value, graph.constant([-1, layout.size])])


def check_arena_order(proto: ModelProto) -> None:
    """Checks that no reader of an arena can run after its scatter, which overwrites the memory under it.

    onnxruntime does not know that input and output share memory: only data dependencies order its nodes. So one Gather
    reads each arena, the scatter depends on it, and the scatter's result is the graph's output and no node's input.

    Raises:
        ModelError: with the rule that is broken.
    """
    readers: dict[str, list[NodeProto]] = {}
    for node in proto.graph.node:
        for name in {*node.input, *(name for graph in subgraphs(node) for name in captured_names(graph))}:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in proto.graph.output}
    for arena in (value.name for value in proto.graph.input if value.name.startswith(ARENA_PREFIX)):
        _check_order(arena, readers, outputs)


def _check_order(arena: str, readers: dict[str, list[NodeProto]], outputs: set[str]) -> None:
    scatters = [node for node in readers.get(arena, ()) if node.op_type in (s.value for s in Scatter)]
    others = [node for node in readers.get(arena, ()) if node not in scatters]
    if len(scatters) != 1 or [node.op_type for node in others] != ["Gather"]:
        raise ModelError(f"{arena}: needs one Gather and one scatter, and no other reader")
    written = scatters[0].output[0]
    if written not in outputs or written in readers:
        raise ModelError(f"{arena}: its scatter must write the graph's output and nothing else")
    if not _reaches(others[0].output[0], written, readers):
        raise ModelError(f"{arena}: the new {arena.removeprefix(ARENA_PREFIX)} states do not depend on the old ones")


def _reaches(start: str, goal: str, readers: dict[str, list[NodeProto]]) -> bool:
    seen, front = {start}, [start]
    while front:
        for node in readers.get(front.pop(), ()):
            new = set(node.output) - seen
            seen |= new
            front.extend(new)
    return goal in seen

"""Turns a user's graph into the one that serves: states come from arenas and go back to them, in place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto

from conveyor.graph.arena import (
    CONTEXT_SLOTS,
    READ_SLOTS,
    WRITE_SLOTS,
    Arena,
    Scatter,
    add_read,
    add_write,
    check_arena_order,
    check_arena_size,
    pack_contexts,
    pack_states,
)
from conveyor.graph.builder import GraphBuilder, value_info
from conveyor.graph.model_file import ModelFile
from conveyor.graph.parts import initialiser_model, step_model
from conveyor.graph.ragged import LENGTHS_INPUT, SHARED_RANGE, NotRaggedError, recurrent_nodes
from conveyor.signature import ContextSpec, Signature, TensorSpec

__all__ = ["LENGTHS", "Arena", "Scatter", "ServingGraph", "build_serving_graph", "check_arena_size"]

LENGTHS = "conveyor.lengths"
ROWS = "conveyor.rows"
CONTEXT_ROWS = "conveyor.context_rows"
BATCH = "conveyor.batch"
TIME = "conveyor.time"


@dataclass(frozen=True, slots=True, eq=False)
class ServingGraph:
    """A graph that steps sessions by their slots.

    Inputs: the stream inputs and noises; each arena `[rows, width]`; `conveyor.read_slots` int64 `[B]` and
    `conveyor.write_slots` int64 `[B, 1]`, where each session's state is read and written; if there are contexts, their
    arenas and `conveyor.context_slots` int64 `[B]`; if `is_ragged`, `conveyor.lengths` int32 `[B]`, each from 1 to the
    number of steps in the run (a length of 0 would destroy the state).
    Outputs: the stream outputs, and each state arena's `.out`, to be bound to the arena itself.
    `initialiser` is a graph of its own, run when a session opens: the given contexts in, first states and computed
    contexts out, under the names that the signature has for those outputs.

    `max_steps` is the most steps of a run, None where the graph takes any number; `not_ragged_because` says what keeps
    chunks of different lengths from running together. Without `can_batch` a run has one session.
    """

    proto: ModelProto
    signature: Signature
    arenas: tuple[Arena, ...]
    contexts: tuple[Arena, ...]
    initialiser: ModelProto | None
    max_steps: int | None
    can_batch: bool
    not_ragged_because: str = ""

    @property
    def is_ragged(self) -> bool:
        return not self.not_ragged_because

    @property
    def batch_dependent_ops(self) -> tuple[str, ...]:
        """Operators that make a session's answers depend, within their rounding, on the others in its run."""
        return tuple(sorted({node.op_type for node in self.proto.graph.node} & SHARED_RANGE))

    def state_rows(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """A session's row `[width]` in each arena, by the arena's name; a state that is not given is as at first."""
        return {arena.name: arena.row(values) for arena in self.arenas}

    def context_rows(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """A session's row in each arena of contexts."""
        return {arena.name: arena.row(values) for arena in self.contexts}

    def constants_of(self, rows: Mapping[str, NDArray[Any]]) -> bytes:
        """Of a session's rows of contexts, what a whole run shares: only sessions that agree in it run together."""
        parts = [
            rows[arena.name][layout.offset : layout.offset + layout.size]
            for arena in self.contexts
            for layout in arena.layouts
            if isinstance(layout.spec, ContextSpec) and layout.spec.is_constant
        ]
        return b"".join(part.tobytes() for part in parts)


def build_serving_graph(model: ModelFile, *, num_rows: int | None, scatter: Scatter) -> ServingGraph:
    """Puts a Gather before the states and a scatter after them, both on the arenas; the model itself is not changed.

    Raises:
        ModelError: the new states do not depend on the old ones, or an initialiser on more than the given contexts.
    """
    signature = model.signature
    initialiser = initialiser_model(model.proto, signature)
    proto = step_model(model.proto, signature)
    if _is_made_for_one(proto, signature):
        del proto.graph.value_info[:]  # lengths inside say so too
    can_batch = not (signature.unbatched or model.alone_because)
    reason = _make_ragged(proto, signature, can_batch=can_batch)
    arenas = pack_states(signature)
    used = {value.name for value in proto.graph.input}
    contexts = pack_contexts([context for context in signature.contexts if context.name in used])
    _replace_states(proto, signature, arenas, scatter)
    batch = BATCH if can_batch else 1
    _replace_contexts(proto, signature, contexts, batch)
    _declare(proto, signature, arenas, num_rows, batch, is_ragged=not reason)
    check_arena_order(proto)
    return ServingGraph(proto, signature, arenas, contexts, initialiser, _max_steps(signature), can_batch, reason)


def _is_made_for_one(proto: ModelProto, signature: Signature) -> bool:
    """True if the graph has a batch of one session where the signature has a batch."""
    axes = {spec.name: spec.axis.batch for spec in (*signature.fed, *signature.states, *signature.outputs)}
    axes |= {state.output: state.axis.batch for state in signature.states}
    shapes = [(value.type.tensor_type.shape.dim, axes.get(value.name)) for value in proto.graph.input]
    shapes += [(value.type.tensor_type.shape.dim, axes.get(value.name)) for value in proto.graph.output]
    return any(axis is not None and len(dims) > axis and dims[axis].dim_value == 1 for dims, axis in shapes)


def _max_steps(signature: Signature) -> int | None:
    has_time = any(spec.axis.time is not None for spec in signature.timed)
    return signature.fixed_steps if has_time else 1


def _make_ragged(proto: ModelProto, signature: Signature, *, can_batch: bool) -> str:
    """Gives the lengths to every recurrent node; returns why not, if that would not do."""
    if _max_steps(signature) is not None:
        return "every run has the same number of steps"
    if not can_batch:
        return "every run has one session"
    try:
        nodes = recurrent_nodes(proto, signature)
    except NotRaggedError as reason:
        return str(reason)
    for node in nodes:
        node.input.extend([""] * (LENGTHS_INPUT + 1 - len(node.input)))
        node.input[LENGTHS_INPUT] = LENGTHS
    return ""


def _replace_states(proto: ModelProto, signature: Signature, arenas: tuple[Arena, ...], scatter: Scatter) -> None:
    """What were inputs and outputs of states become tensors inside, computed from and for the arenas."""
    before, after = GraphBuilder("conveyor.read."), GraphBuilder("conveyor.write.")
    for arena in arenas:
        add_read(before, arena)
        add_write(after, arena, scatter)
    graph = proto.graph
    inner = {s.name for s in signature.states}, {s.output for s in signature.states}
    _keep(graph.input, [value for value in graph.input if value.name not in inner[0]])
    _keep(graph.output, [value for value in graph.output if value.name not in inner[1]])
    _keep(graph.node, [*before.nodes, *graph.node, *after.nodes])
    # A state that the graph has a value for, should nobody feed it, begins with what the signature says.
    _keep(graph.initializer, [tensor for tensor in graph.initializer if tensor.name not in inner[0]])
    graph.initializer.extend([*before.constants, *after.constants])


def _replace_contexts(proto: ModelProto, signature: Signature, arenas: tuple[Arena, ...], batch: int | str) -> None:
    """What were inputs of contexts become tensors inside, read from arenas that nothing in the graph writes."""
    graph, before = proto.graph, GraphBuilder("conveyor.context.read.")
    for arena in arenas:
        add_read(before, arena, CONTEXT_SLOTS)
    names = {context.name for context in signature.contexts}
    _keep(graph.input, [value for value in graph.input if value.name not in names])
    _keep(graph.node, [*before.nodes, *graph.node])
    graph.initializer.extend(before.constants)
    graph.input.extend(value_info(arena.name, arena.dtype, [CONTEXT_ROWS, arena.width]) for arena in arenas)
    if arenas:
        graph.input.append(value_info(CONTEXT_SLOTS, "int64", [batch]))


def _declare(
    proto: ModelProto,
    signature: Signature,
    arenas: tuple[Arena, ...],
    num_rows: int | None,
    batch: int | str,
    *,
    is_ragged: bool,
) -> None:
    rows = ROWS if num_rows is None else num_rows
    _declare_streams(proto.graph.input, signature.timed)
    _declare_streams(proto.graph.output, signature.outputs)
    proto.graph.input.extend(value_info(arena.name, arena.dtype, [rows, arena.width]) for arena in arenas)
    proto.graph.output.extend(value_info(arena.output, arena.dtype, [rows, arena.width]) for arena in arenas)
    if arenas:
        proto.graph.input.append(value_info(READ_SLOTS, "int64", [batch]))
        proto.graph.input.append(value_info(WRITE_SLOTS, "int64", [batch, 1]))
    if is_ragged:
        proto.graph.input.append(value_info(LENGTHS, "int32", [batch]))


def _declare_streams(values: Any, specs: Sequence[TensorSpec]) -> None:
    """Says where batch and time are: a foreign graph may declare lengths of 0 or 1, symbols that lie, or nothing.

    Lengths that the graph leaves open stay so: with them onnxruntime would refuse branches that are for other lengths.
    """
    known = {spec.name: spec for spec in specs}
    _keep(values, [_declared(value, known[value.name]) if value.name in known else value for value in values])


def _declared(value: ValueInfoProto, spec: TensorSpec) -> ValueInfoProto:
    lengths: list[int | str | None] = [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]
    lengths = lengths or [None] * spec.rank
    batch, time = spec.axis.batch, spec.axis.time
    if batch is not None and lengths[batch] in (None, 1):
        lengths[batch] = BATCH
    if time is not None and lengths[time] is None:
        lengths[time] = TIME
    return value_info(spec.name, spec.dtype, lengths)


def _keep(field: Any, items: list[Any]) -> None:
    """Replaces a repeated field's items; some of them may be its own."""
    copies = [_copy(item) for item in items]
    del field[:]
    field.extend(copies)


def _copy(item: Any) -> Any:
    copy = type(item)()
    copy.CopyFrom(item)
    return copy

"""Cuts a model's graph in two: what is computed once, when a session opens, and what is computed at each step."""

from collections.abc import Sequence

from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto
from onnx.helper import make_node

from conveyor.graph.checks import captured_names, subgraphs
from conveyor.graph.errors import ModelError
from conveyor.signature import Signature


def initialiser_model(proto: ModelProto, signature: Signature) -> ModelProto | None:
    """The part that computes first states and contexts from the contexts a client gives; None if there is none.

    Inputs: the given contexts. Outputs: the signature's initialisers.

    Raises:
        ModelError: one depends on anything else.
    """
    if not signature.initialisers:
        return None
    part = part_of(proto, [value for value in proto.graph.output if value.name in signature.initialisers])
    _count_by_context(part, proto, signature)
    known = {context.name for context in signature.given_contexts} | {tensor.name for tensor in part.graph.initializer}
    if strays := sorted({value.name for value in part.graph.input} - known):
        raise ModelError(f"initialisers: they depend on {strays[0]}, which is not a context that the client gives")
    return part


def _count_by_context(part: ModelProto, proto: ModelProto, signature: Signature) -> None:
    """Reads the number of sessions off a given context, also where the exporter chose another input for it."""
    counted = [(spec.name, spec.axis.batch) for spec in signature.given_contexts if spec.axis.batch is not None]
    batches = {spec.name: spec.axis.batch for spec in (*signature.fed, *signature.states)}
    for node in part.graph.node:
        axis = _measured_axis(node)
        if counted and axis is not None and axis == batches.get(node.input[0]):
            name, start = counted[0]
            node.CopyFrom(make_node("Shape", [name], node.output, start=start, end=start + 1))
    _, names = _needed(part.graph, {value.name for value in part.graph.output})
    del part.graph.input[:]
    part.graph.input.extend(value for value in proto.graph.input if value.name in names)


def _measured_axis(node: NodeProto) -> int | None:
    """The one axis whose length a Shape node gives."""
    ends = {attribute.name: attribute.i for attribute in node.attribute}
    start = ends.get("start", 0)
    return start if node.op_type == "Shape" and ends.get("end") == start + 1 else None


def step_model(proto: ModelProto, signature: Signature) -> ModelProto:
    """The graph without its initialisers. Its inputs are those that are left, whether or not a node reads them."""
    part = part_of(proto, [value for value in proto.graph.output if value.name not in signature.initialisers])
    names = {value.name for value in part.graph.input}
    steps = {spec.name for spec in (*signature.timed, *signature.states)}
    part.graph.input.extend(v for v in proto.graph.input if v.name in steps - names)
    return part


def part_of(proto: ModelProto, outputs: Sequence[ValueInfoProto]) -> ModelProto:
    """What these outputs need, in the graph's order."""
    graph = proto.graph
    nodes, names = _needed(graph, {value.name for value in outputs})
    part = GraphProto(
        name=graph.name,
        node=nodes,
        input=[value for value in graph.input if value.name in names],
        output=outputs,
        initializer=[tensor for tensor in graph.initializer if tensor.name in names],
        sparse_initializer=graph.sparse_initializer,
        value_info=graph.value_info,
    )
    return ModelProto(
        ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions, graph=part
    )


def _needed(graph: GraphProto, names: set[str]) -> tuple[list[NodeProto], set[str]]:
    """The nodes that these tensors depend on, and all tensors that those read or that were asked for."""
    names, nodes = set(names), []
    for node in reversed(graph.node):  # a graph is in topological order
        if names.intersection(node.output):
            nodes.append(node)
            names.update(node.input, *(captured_names(inner) for inner in subgraphs(node)))
            names.discard("")  # an operand that is left out, on either side of a node
    return nodes[::-1], names

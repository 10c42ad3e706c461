"""Cuts a model's graph in two: what is computed once, when a session opens, and what is computed at each step."""

from collections.abc import Sequence

from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

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
    known = {context.name for context in signature.given_contexts} | {tensor.name for tensor in part.graph.initializer}
    if strays := sorted({value.name for value in part.graph.input} - known):
        raise ModelError(f"initialisers: they depend on {strays[0]}, which is not a context that the client gives")
    return part


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

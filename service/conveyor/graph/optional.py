"""Leaves out of a graph what is computed only for outputs on request. ONNX Runtime would run it whatever is asked."""

from dataclasses import replace

from conveyor.graph.parts import part_of
from conveyor.graph.serving import ServingGraph


def without_optional(graph: ServingGraph) -> ServingGraph:
    """The same graph without its optional outputs and all that only they need; itself if it has none.

    The inputs stay, whether or not a node reads them, so that both take the same.
    """
    outputs = tuple(spec for spec in graph.signature.outputs if not spec.is_optional)
    if outputs == graph.signature.outputs:
        return graph
    dropped = {spec.name for spec in graph.signature.outputs if spec.is_optional}
    proto = part_of(graph.proto, [value for value in graph.proto.graph.output if value.name not in dropped])
    del proto.graph.input[:]
    proto.graph.input.extend(graph.proto.graph.input)
    return replace(graph, proto=proto, signature=replace(graph.signature, outputs=outputs))

"""What a graph's own numbers tell about its inputs."""

import math
from contextlib import suppress

from onnx import GraphProto, NodeProto, numpy_helper

from conveyor.graph.checks import all_nodes

_MOVES = {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Gather"}


def compared_values(graph: GraphProto, name: str) -> set[float]:
    """The constants that the graph compares an input with: a sample rate's branches have theirs."""
    nodes = list(all_nodes(graph))
    numbers = _numbers(graph, nodes)
    names = {name}
    found: set[float] = set()
    for node in nodes:  # in topological order, bodies after what they capture
        if node.op_type in _MOVES and node.input[0] in names:
            names.update(node.output)
        if node.op_type == "Equal" and names.intersection(node.input):
            found.update(numbers[each] for each in node.input if each in numbers)
    return found


def table_length(graph: GraphProto, name: str) -> int | None:
    """Rows of the table that an input of tokens is looked up in; None if it is used in any other way too."""
    tables = {tensor.name: tensor.dims for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in ("Cast", "DequantizeLinear", "Identity") and node.input[0] in tables:
            tables[node.output[0]] = tables[node.input[0]]
    readers = [node for node in all_nodes(graph) if name in node.input and node.op_type != "Shape"]
    lookups = [node for node in readers if node.op_type == "Gather" and list(node.input).index(name) == 1]
    rows = [tables[node.input[0]][0] for node in lookups if tables.get(node.input[0]) and not _axis(node)]
    return min(rows) if rows and len(rows) == len(readers) else None


def _axis(node: NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)


def _numbers(graph: GraphProto, nodes: list[NodeProto]) -> dict[str, float]:
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in nodes:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    numbers = {}
    for name, tensor in tensors.items():
        if math.prod(tensor.dims) == 1:
            with suppress(KeyError, TypeError, ValueError):  # onnxruntime will say what is wrong with it
                numbers[name] = numpy_helper.to_array(tensor).item()
    return numbers

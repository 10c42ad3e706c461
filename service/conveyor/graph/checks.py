"""What a graph must be before it is served, and whether it is what its signature says."""

from collections.abc import Iterator
from itertools import chain
from math import prod

import numpy as np
import onnx
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper
from onnx.external_data_helper import uses_external_data

from conveyor.graph.errors import ModelError
from conveyor.signature import Signature, TensorSpec

# The newest operator set that the oldest supported onnxruntime (1.31) runs.
MAX_OPSET = 26
# The oldest that onnxruntime promises to run.
MIN_OPSET = 7
DOMAINS = {"": MAX_OPSET, "ai.onnx": MAX_OPSET, "ai.onnx.ml": 5, "com.microsoft": 1}
PREFIX = "conveyor."

# What a file may hold at most. A graph reaches onnxruntime as one message, and those end at 2 GiB.
MAX_BYTES = 2**31 - 1
MAX_NODES = 100_000
# Elements of one session's share of a tensor: 1 GiB of float32.
MAX_ELEMENTS = 2**28


def check_graph(proto: ModelProto) -> None:
    """Refuses what is malformed, too large, or unknown to onnxruntime.

    Raises:
        ModelError: with the first thing found.
    """
    _check_opsets(proto)
    _check_nodes(proto)
    if external := [tensor.name for tensor in all_tensors(proto) if uses_external_data(tensor)]:
        raise ModelError(f"weight {external[0]} lies in another file, which was not read")
    _check_names(proto.graph)
    _check_format(proto)


def check_roles(proto: ModelProto, signature: Signature) -> None:
    """Compares every tensor of the signature with the graph's: name, dtype, rank and fixed lengths.

    Raises:
        ModelError: with the first difference found.
    """
    if signature.fixed_steps not in (None, 1):
        raise ModelError(
            f"fixed_steps: {signature.fixed_steps}; only graphs of any number of steps, or of 1, are served"
        )
    if signature.takes_tokens and signature.max_token is None:
        # Unchecked, one client's bad token would fail the run that other sessions are in.
        raise ModelError("max_token: a model of tokens has to say which is the last")
    bounded = [context for context in signature.given_contexts if not context.is_constant]
    if signature.max_token is None and any(context.dtype.startswith("int") for context in bounded):
        raise ModelError("max_token: a model with a context of whole numbers has to say which is the last")
    if signature.logits and signature.max_token is not None and signature.max_token >= signature.logits.shape[0]:
        raise ModelError(f"max_token: {signature.max_token}, but there are {signature.logits.shape[0]} logits")
    constants = {tensor.name for tensor in proto.graph.initializer} - {state.name for state in signature.states}
    inputs = {value.name: value for value in proto.graph.input if value.name not in constants}
    outputs = {value.name: value for value in proto.graph.output}
    for spec in (*signature.fed, *signature.states):
        _check_tensor("input", spec, spec.name, inputs, signature)
    for output in signature.outputs:
        _check_tensor("output", output, output.name, outputs, signature)
    for state in signature.states:
        _check_tensor("output", state, state.output, outputs, signature)
    for name, spec in signature.initialisers.items():
        _check_tensor("output", spec, name, outputs, signature)
    known = {spec.name for spec in (*signature.fed, *signature.states)}
    if strays := sorted(inputs.keys() - known):
        raise ModelError(f"input {strays[0]}: has no role in the signature")
    _check_time(signature)


def _check_nodes(proto: ModelProto) -> None:
    functions = {(function.domain, function.name) for function in proto.functions}
    nodes = chain(all_nodes(proto.graph), *(all_nodes(function) for function in proto.functions))
    for count, node in enumerate(nodes, start=1):
        if count > MAX_NODES:
            raise ModelError(f"the graph has more than {MAX_NODES} nodes")
        if node.domain not in DOMAINS and (node.domain, node.op_type) not in functions:
            raise ModelError(f"node {node.name or node.op_type}: operators of domain {node.domain!r} are not served")


def all_nodes(graph: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    """Every node of the graph and of the graphs inside its nodes."""
    for node in graph.node:
        yield node
        for subgraph in subgraphs(node):
            yield from all_nodes(subgraph)


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies of an If, Loop or Scan."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def captured_names(graph: GraphProto) -> set[str]:
    """Names that a subgraph may take from outside: all that it reads."""
    names = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    return names.union(*(captured_names(inner) for node in graph.node for inner in subgraphs(node)))


def all_tensors(proto: ModelProto) -> Iterator[TensorProto]:
    """Every constant of the model: weights and attributes of nodes, in whatever graph, dense and sparse."""
    parts: list[GraphProto | FunctionProto] = [proto.graph, *proto.functions]
    nodes = [node for part in parts for node in all_nodes(part)]
    graphs = [proto.graph, *(graph for node in nodes for graph in subgraphs(node))]
    sparse = [tensor for graph in graphs for tensor in graph.sparse_initializer]
    for graph in graphs:
        yield from graph.initializer
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        sparse += [attribute.sparse_tensor, *attribute.sparse_tensors]
    for each in sparse:
        yield from (each.values, each.indices)


def value_names(graph: GraphProto) -> Iterator[str]:
    """Names of all tensors of the outermost graph."""
    yield from (value.name for value in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from node.output


def _check_opsets(proto: ModelProto) -> None:
    for opset in proto.opset_import:
        if opset.domain in DOMAINS and opset.version > DOMAINS[opset.domain]:
            name = opset.domain or "ai.onnx"
            raise ModelError(f"opset {opset.version} of {name} is too new; export with at most {DOMAINS[opset.domain]}")
        if opset.domain in ("", "ai.onnx") and opset.version < MIN_OPSET:
            raise ModelError(f"opset {opset.version} is too old; export with at least {MIN_OPSET}")


def _check_format(proto: ModelProto) -> None:
    values = [value for value in (*proto.graph.input, *proto.graph.output) if value.type.HasField("tensor_type")]
    shapeless = [value for value in values if not value.type.tensor_type.HasField("shape")]
    for value in shapeless:  # onnx's checker demands a shape, onnxruntime does without
        value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, ValueError) as error:
        problem = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"malformed graph: {problem}") from error
    finally:
        for value in shapeless:
            value.type.tensor_type.ClearField("shape")


def _check_names(graph: GraphProto) -> None:
    values = [value.type.tensor_type.shape.dim for value in (*graph.input, *graph.output)]
    if not all(isinstance(name, str) for name in (graph.name, *(dim.dim_param for dims in values for dim in dims))):
        raise ModelError("malformed graph: its name, or that of a length, is not text")
    for name in value_names(graph):
        if not isinstance(name, str):  # protobuf gives bytes where a name is not UTF-8
            raise ModelError(f"tensor {name!r}: its name is not text")
        if name.startswith(PREFIX):
            raise ModelError(f"tensor {name}: names that start with {PREFIX!r} are the server's own")


def _check_tensor(
    kind: str, spec: TensorSpec, name: str, values: dict[str, ValueInfoProto], signature: Signature
) -> None:
    if name not in values:
        raise ModelError(f"{kind} {name}: the signature names it, but the graph has no such {kind}")
    if prod(spec.shape) > MAX_ELEMENTS:
        raise ModelError(f"{kind} {name}: {list(spec.shape)} is more than {MAX_ELEMENTS} elements for each session")
    tensor = values[name].type.tensor_type
    if tensor.elem_type != helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)):
        known = tensor.elem_type in TensorProto.DataType.values()
        got = TensorProto.DataType.Name(tensor.elem_type).lower() if known else "an unknown type"
        raise ModelError(f"{kind} {name}: the signature says {spec.dtype}, the graph {got}")
    if not tensor.HasField("shape"):
        return
    lengths = [dim.dim_value or None for dim in tensor.shape.dim]  # some exporters write 0 for any length
    if len(lengths) != spec.rank:
        raise ModelError(f"{kind} {name}: the signature says {spec.rank} axes, the graph {len(lengths)}")
    _check_lengths(kind, spec, name, lengths, signature.fixed_steps)


def _check_lengths(kind: str, spec: TensorSpec, name: str, got: list[int | None], fixed_steps: int | None) -> None:
    lengths = iter(spec.shape)
    for axis, length in enumerate(got):
        if axis == spec.axis.batch:
            if length not in (None, 1):  # what was exported for one may do for more: a trial finds out
                raise ModelError(f"{kind} {name}: axis {axis} is the batch axis, but the graph fixes it to {length}")
        elif axis == spec.axis.time:
            if length is not None and length != fixed_steps:
                raise ModelError(f"{kind} {name}: axis {axis} is the time axis, but the graph fixes it to {length}")
        elif length not in (expected := next(lengths), None):
            raise ModelError(f"{kind} {name}: axis {axis} should be {expected} long, it is {length}")


def _check_time(signature: Signature) -> None:
    timed = [spec.axis.time is not None for spec in signature.timed]
    if any(timed) != all(timed):
        raise ModelError("either all stream inputs and noises have a time axis or none has")
    for spec in signature.outputs:
        if all(timed) and spec.axis.time is None and signature.fixed_steps != 1:
            raise ModelError(f"output {spec.name}: has no time axis, though the inputs have one")

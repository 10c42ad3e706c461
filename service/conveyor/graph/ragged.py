"""Finds out whether sessions of different chunk lengths can run together: one whose chunk is shorter is padded.

Padding is harmless if every operator treats each step by itself, all but recurrent ones, which stop at a given length.
So the time axis is followed from the stream inputs through operators that are known to keep it; at the first other one
the answer is no.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, numpy_helper

from conveyor.signature import Signature

RECURRENT = {"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"}
LENGTHS_INPUT = 4  # of each of them

# These take one quantisation range from all rows and steps of a run, so each sees a little of the others.
SHARED_RANGE = {"DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul"}

ELEMENTWISE = {
    *("Abs", "Add", "Cast", "Clip", "Cos", "DequantizeLinear", "Div", "Elu", "Equal", "Erf", "Exp", "Gelu", "Greater"),
    *("HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Less", "Log", "Max", "Min", "Mish", "Mod", "Mul", "Neg"),
    *("Not", "Pow", "PRelu", "QuantizeLinear", "Reciprocal", "Relu", "Selu", "Sigmoid", "Sign", "Sin", "Softplus"),
    *("Softsign", "Sqrt", "Sub", "Tanh", "Where"),
}


class NotRaggedError(Exception):
    """An operator may mix steps; the text says which."""


def recurrent_nodes(proto: ModelProto, signature: Signature) -> list[NodeProto]:
    """The nodes that must be given each session's number of steps.

    Raises:
        NotRaggedError: chunks of different lengths cannot run together.
    """
    try:
        follower = _Follower(proto, signature)
        for node in proto.graph.node:
            follower.follow(node)
    except (IndexError, ValueError, onnx.shape_inference.InferenceError) as error:
        raise NotRaggedError(f"the graph is malformed: {error}") from error  # onnxruntime will say so too
    for state in signature.states:
        if state.output in follower.time_axis:
            raise NotRaggedError(f"state {state.name} is not a recurrent operator's final state")
    for output in signature.outputs:
        if follower.time_axis.get(output.name) != output.axis.time:
            raise NotRaggedError(f"output {output.name} does not keep the steps apart")
    if not follower.recurrent:
        raise NotRaggedError("no recurrent operator")
    return follower.recurrent


class _Follower:
    """Knows the time axis of every tensor that has one, as far as the graph was followed."""

    def __init__(self, proto: ModelProto, signature: Signature) -> None:
        self.time_axis = {s.name: s.axis.time for s in signature.timed if s.axis.time is not None}
        self.recurrent: list[NodeProto] = []
        self._ranks = _ranks(proto)
        self._constants = {tensor.name: tensor for tensor in proto.graph.initializer}
        for node in proto.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._constants[node.output[0]] = node.attribute[0].t

    def follow(self, node: NodeProto) -> None:
        """Learns the time axes of the node's outputs."""
        timed = [name for name in node.input if name in self.time_axis]
        if any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute):
            raise NotRaggedError(f"{node.op_type} may mix steps")  # its body may read tensors that have a time axis
        if not timed:
            return
        rule = _elementwise if node.op_type in ELEMENTWISE else RULES.get(node.op_type)
        if rule is None:
            raise NotRaggedError(f"{node.op_type} may mix steps")
        axis = rule(self, node)
        outputs = node.output[:1] if node.op_type in {*RECURRENT, "DynamicQuantizeLinear"} else node.output
        self.time_axis.update({name: axis for name in outputs if name})

    def rank(self, name: str) -> int:
        if name not in self._ranks:
            raise NotRaggedError(f"tensor {name} has an unknown rank")
        return self._ranks[name]

    def integers(self, node: NodeProto, index: int, attribute: str) -> list[int]:
        """Constant integers, which are an input in new operator sets and an attribute in old ones."""
        if len(node.input) > index and node.input[index] in self._constants:
            tensor = self._constants[node.input[index]]
            return [int(i) for i in np.atleast_1d(numpy_helper.to_array(tensor))]
        found = _attribute(node, attribute)
        if found is None:
            raise NotRaggedError(f"{node.op_type} takes its {attribute} from elsewhere")
        return list(found)

    def only(self, node: NodeProto, index: int = 0) -> int:
        """Time axis of the one input that may have one."""
        if any(name in self.time_axis for i, name in enumerate(node.input) if i != index):
            raise NotRaggedError(f"{node.op_type} may mix steps")
        return self.time_axis[node.input[index]]


def _ranks(proto: ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in values if v.type.tensor_type.HasField("shape")}
    return ranks | {tensor.name: len(tensor.dims) for tensor in graph.initializer}


def _attribute(node: NodeProto, name: str) -> Any:
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), None)


def _axis(follower: _Follower, node: NodeProto, default: int) -> int:
    axis: int | None = _attribute(node, "axis")
    return (default if axis is None else axis) % follower.rank(node.input[0])


def _elementwise(follower: _Follower, node: NodeProto) -> int:
    """Broadcasting aligns last axes, so the time axes must lie equally far from the end."""
    ranks = {name: follower.rank(name) for name in node.input if name}
    from_end = {ranks[name] - follower.time_axis[name] for name in ranks if name in follower.time_axis}
    if len(from_end) != 1:
        raise NotRaggedError(f"{node.op_type} joins different steps")
    return max(ranks.values()) - from_end.pop()


def _recurrent(follower: _Follower, node: NodeProto) -> int:
    if follower.only(node) != 0 or _attribute(node, "layout"):
        raise NotRaggedError(f"{node.op_type} does not have time as its first axis")
    if _attribute(node, "direction") not in (None, b"forward"):
        raise NotRaggedError(f"{node.op_type} is not forward")
    if len(node.input) > LENGTHS_INPUT and node.input[LENGTHS_INPUT]:
        raise NotRaggedError(f"{node.op_type} has sequence lengths of its own")
    follower.recurrent.append(node)
    return 0


def _gather(follower: _Follower, node: NodeProto) -> int:
    axis = _axis(follower, node, 0)
    if node.input[1] in follower.time_axis:
        return axis + follower.only(node, 1)
    time = follower.only(node)
    if axis == time:
        raise NotRaggedError("Gather picks steps")
    return time if time < axis else time - 1 + follower.rank(node.input[1])


def _matmul(follower: _Follower, node: NodeProto) -> int:
    time, rank = follower.only(node), follower.rank(node.input[0])
    if time == rank - 1 or follower.rank(node.input[1]) != 2:
        raise NotRaggedError(f"{node.op_type} may mix steps")
    return time


def _gemm(follower: _Follower, node: NodeProto) -> int:
    if follower.only(node) != 0 or _attribute(node, "transA"):
        raise NotRaggedError("Gemm mixes steps")
    return 0


def _transpose(follower: _Follower, node: NodeProto) -> int:
    order = _attribute(node, "perm") or reversed(range(follower.rank(node.input[0])))
    return list(order).index(follower.only(node))


def _squeeze(follower: _Follower, node: NodeProto) -> int:
    rank, time = follower.rank(node.input[0]), follower.only(node)
    axes = [axis % rank for axis in follower.integers(node, 1, "axes")]
    if time in axes:
        raise NotRaggedError("Squeeze removes the time axis")
    return time - sum(axis < time for axis in axes)


def _unsqueeze(follower: _Follower, node: NodeProto) -> int:
    added = follower.integers(node, 1, "axes")
    rank = follower.rank(node.input[0]) + len(added)
    left = [axis for axis in range(rank) if axis not in {a % rank for a in added}]
    return left[follower.only(node)]


def _reshape(follower: _Follower, node: NodeProto) -> int:
    """The axes up to the time axis must be copied as they are."""
    time = follower.only(node)
    shape = follower.integers(node, 1, "shape")
    if _attribute(node, "allowzero") or shape[: time + 1] != [0] * (time + 1):
        raise NotRaggedError("Reshape may mix steps")
    return time


def _apart(default: int) -> Callable[[_Follower, NodeProto], int]:
    """Operators that work along one axis, which must not be the time axis."""

    def rule(follower: _Follower, node: NodeProto) -> int:
        time = follower.only(node)
        if _axis(follower, node, default) == time:
            raise NotRaggedError(f"{node.op_type} works along the time axis")
        return time

    return rule


def _concat(follower: _Follower, node: NodeProto) -> int:
    times = {follower.time_axis.get(name) for name in node.input}
    time = times.pop()
    if times or time is None or _axis(follower, node, 0) == time:
        raise NotRaggedError("Concat joins different steps")
    return time


def _slice(follower: _Follower, node: NodeProto) -> int:
    time, rank = follower.only(node), follower.rank(node.input[0])
    if time in [axis % rank for axis in follower.integers(node, 3, "axes")]:
        raise NotRaggedError("Slice picks steps")
    return time


def _layer_norm(follower: _Follower, node: NodeProto) -> int:
    time = follower.only(node)
    if time >= _axis(follower, node, -1):
        raise NotRaggedError("LayerNormalization mixes steps")
    return time


def _first(follower: _Follower, node: NodeProto) -> int:
    return follower.only(node)


RULES: dict[str, Callable[[_Follower, NodeProto], int]] = {
    **dict.fromkeys(RECURRENT, _recurrent),
    "Concat": _concat,
    "Dropout": _first,
    "DynamicQuantizeLinear": _first,  # in spite of its shared range: padding is in the range of what a step may be
    "DynamicQuantizeMatMul": _matmul,
    "Gather": _gather,
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _apart(-1),
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "Reshape": _reshape,
    "Slice": _slice,
    "Softmax": _apart(-1),
    "Split": _apart(0),
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}

"""Which nodes of a graph onnxruntime's CUDA provider takes, by its rules as of release 1.31, without a GPU at hand.

What a loaded session reports is the truth; this says what to expect, and why.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

from conveyor.graph.checks import all_nodes

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@dataclass(frozen=True, slots=True)
class NodePlacement:
    """Where a node runs. `reason` is one sentence, empty for what simply runs on CUDA."""

    name: str
    op_type: str
    provider: str
    reason: str = ""


def cuda_placement(proto: ModelProto) -> list[NodePlacement]:
    """The provider of each node, in the graph's order, were a CUDA device there."""
    types = _types(proto)
    return [_place(node, types) for node in all_nodes(proto.graph)]


# Operators with a CUDA kernel for float32 and, where they are used for shapes and slots, int64.
CUDA_OPS = {
    *("Abs", "Add", "Affine", "And", "ArgMax", "ArgMin", "AveragePool", "BatchNormalization", "Cast", "Ceil", "Clip"),
    *("Compress", "Concat", "Constant", "ConstantOfShape", "Conv", "ConvTranspose", "Cos", "CumSum", "DepthToSpace"),
    *("DequantizeLinear", "Div", "Dropout", "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand", "EyeLike", "Flatten"),
    *("Floor", "Gather", "GatherElements", "GatherND", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "Greater"),
    *("GreaterOrEqual", "GridSample", "GRU", "HardSigmoid", "HardSwish", "Identity", "If", "InstanceNormalization"),
    *("IsInf", "IsNaN", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "Loop", "LRN"),
    *("LSTM", "MatMul", "Max", "MaxPool", "Min", "Mod", "Mul", "Neg", "NonZero", "Not", "OneHot", "Or", "Pad", "Pow"),
    *("PRelu", "QuantizeLinear", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Range"),
    *("Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
    *("ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Resize", "ReverseSequence", "RMSNormalization"),
    *("RNN", "Round", "Scan", "ScatterElements", "ScatterND", "Selu", "Shape", "Shrink", "Sigmoid", "Sign", "Sin"),
    *("Size", "Slice", "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum"),
    *("Tanh", "ThresholdedRelu", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze", "Where", "Xor"),
}
CONTRIB_CUDA_OPS = {
    *("Attention", "BiasGelu", "BiasSoftmax", "FastGelu", "FusedMatMul", "Gelu", "MatMulNBits", "MultiHeadAttention"),
    *("QuickGelu", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"),
}

CUDNN_ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
CUDNN_DTYPES = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16}
PEEPHOLES_INPUT = 7


def _place(node: NodeProto, types: dict[str, int]) -> NodePlacement:
    reason = _fallback(node, types)
    if reason:
        return NodePlacement(node.name, node.op_type, CPU, reason)
    note = "Its result is a shape, which stays in host memory." if node.op_type in ("Shape", "Size") else ""
    return NodePlacement(node.name, node.op_type, CUDA, note)


def _fallback(node: NodeProto, types: dict[str, int]) -> str:
    """Why the node stays on the CPU; empty if it does not."""
    if node.domain == "com.microsoft":
        return (
            "" if node.op_type in CONTRIB_CUDA_OPS else "The CUDA provider has no kernel for this contributed operator."
        )
    if node.op_type in CUDNN_ACTIVATIONS:
        return _recurrent_fallback(node, types)
    if node.op_type == "MatMulInteger" and types.get(node.input[0]) == TensorProto.INT8:
        return ""
    return "" if node.op_type in CUDA_OPS else "The CUDA provider has no kernel for this operator."


def _recurrent_fallback(node: NodeProto, types: dict[str, int]) -> str:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return next((reason for breaks, reason in RECURRENT_RULES if breaks(node, attributes, types)), "")


Rule = Callable[[NodeProto, dict[str, Any], dict[str, int]], bool]


def _present(name: str) -> Rule:
    return lambda node, attributes, types: name in attributes


def _has_other_dtype(node: NodeProto, attributes: dict[str, Any], types: dict[str, int]) -> bool:
    return types.get(node.input[0], TensorProto.FLOAT) not in CUDNN_DTYPES


def _has_other_activations(node: NodeProto, attributes: dict[str, Any], types: dict[str, int]) -> bool:
    usual = [name.lower() for name in CUDNN_ACTIVATIONS[node.op_type]]
    directions = 2 if attributes.get("direction") == b"bidirectional" else 1
    got = [name.decode().lower() for name in attributes.get("activations", [])]
    return bool(got) and got != usual * directions


def _has_peepholes(node: NodeProto, attributes: dict[str, Any], types: dict[str, int]) -> bool:
    return node.op_type == "LSTM" and len(node.input) > PEEPHOLES_INPUT and bool(node.input[PEEPHOLES_INPUT])


def _resets_after(node: NodeProto, attributes: dict[str, Any], types: dict[str, int]) -> bool:
    return node.op_type == "GRU" and attributes.get("linear_before_reset", 0) != 1


RECURRENT_RULES: tuple[tuple[Rule, str], ...] = (
    (
        lambda node, attributes, types: attributes.get("layout", 0) == 1,
        "No provider runs layout=1, so the model will not load; export with layout=0.",
    ),
    (_has_other_dtype, "cuDNN's recurrent kernels take float32, float16 and float64 only."),
    (_present("clip"), "The attribute clip keeps it on the CPU, whatever its value."),
    (_present("activation_alpha"), "The attribute activation_alpha keeps it on the CPU, whatever its value."),
    (_present("activation_beta"), "The attribute activation_beta keeps it on the CPU, whatever its value."),
    (_has_other_activations, "Its activations are not those of cuDNN (for an RNN only tanh is taken)."),
    (
        lambda node, attributes, types: attributes.get("input_forget", 0) != 0,
        "Coupled gates (input_forget) run on the CPU only; negated weight rows express them without it.",
    ),
    (_resets_after, "A GRU needs linear_before_reset=1 for cuDNN, and absent means 0."),
    (_has_peepholes, "Peephole weights (input P) run on the CPU only."),
)


def _types(proto: ModelProto) -> dict[str, int]:
    try:
        graph = onnx.shape_inference.infer_shapes(proto).graph
    except onnx.shape_inference.InferenceError:
        graph = proto.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}

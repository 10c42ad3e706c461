"""Smaller or faster forms of an exported graph, and what each does to the numbers."""

import copy
import logging
import tempfile
import warnings
from enum import Enum
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from conveyor_export.errors import UnsupportedOption

_SMALL = 64  # values; below this a Cast node weighs more than it saves


class Precision(Enum):
    """How weights are stored and computed with. Inputs, outputs and states are float32 in all of them."""

    FLOAT32 = "float32"
    HALF = "half"
    """Weights rounded to float16 in the file, widened once at load; computes in float32."""
    FLOAT16 = "fp16"
    """Computes in float16, for GPUs."""
    INT8 = "int8"
    """LSTM and MatMul weights in int8, activations scaled at each run; for CPUs."""


def round_weights(module: nn.Module) -> nn.Module:
    """A copy of the module with every float32 parameter and buffer rounded to float16's nearest value.

    Raises:
        UnsupportedOption: a value is beyond float16's range.
    """
    rounded = copy.deepcopy(module)
    tensors = {**dict(rounded.named_parameters()), **dict(rounded.named_buffers())}
    for name, tensor in tensors.items():
        if tensor.dtype == torch.float32:
            tensor.data = tensor.data.half().float()
            if not torch.isfinite(tensor.data).all():
                raise UnsupportedOption(f"half: {name} has values beyond 65504, float16's largest")
    return rounded


def store_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Stores as float16, with a Cast, each float32 weight that float16 holds exactly: so no value changes.

    ONNX Runtime folds the casts when it loads the file, so kernels see constant float32 weights as before.
    """
    casts = []
    for index, weight in enumerate(model.graph.initializer):
        if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) < _SMALL:
            continue
        values = numpy_helper.to_array(weight)
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if np.array_equal(halves.astype(np.float32), values):
            stored = f"{weight.name}.half"
            casts.append(helper.make_node("Cast", [stored], [weight.name], name=f"{stored}.cast", to=TensorProto.FLOAT))
            model.graph.initializer[index].CopyFrom(numpy_helper.from_array(halves, stored))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    return model


def quantize(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replaces each LSTM and each MatMul by a constant with its int8 form.

    Raises:
        UnsupportedOption: the graph has recurrent layers with no such form, or nothing to replace.
    """
    if others := sorted({node.op_type for node in model.graph.node} & {"GRU", "RNN"}):
        raise UnsupportedOption(f"int8: ONNX Runtime has an int8 kernel for LSTM, none for {', '.join(others)}")
    quantized = _quantize_dynamic(model)
    ops = [node.op_type for node in quantized.graph.node]
    if left := ops.count("LSTM"):
        raise UnsupportedOption(f"int8: {left} LSTM layers stayed float32: their weights are not constants")
    if not {"DynamicQuantizeLSTM", "MatMulInteger", "DynamicQuantizeMatMul"} & set(ops):
        raise UnsupportedOption("int8: the model has no LSTM or MatMul with constant weights")
    return quantized


def _quantize_dynamic(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic  # costs a second that other exports need not pay

    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it advises a preparation that these graphs do not need
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = Path(folder) / "model.onnx"
            quantize_dynamic(
                _fold_transposes(model),
                path,
                op_types_to_quantize=["LSTM", "MatMul"],
                weight_type=QuantType.QInt8,
                per_channel=True,
                # Seven bits: CPUs without VNNI add pairs of products in 16 bits, which eight-bit weights overflow.
                reduce_range=True,
            )
            return onnx.load(path)
    finally:
        logging.root.setLevel(level)


def _fold_transposes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which no weight reaches its MatMul through a Transpose, which quantisation would not look behind."""
    folded = copy.deepcopy(model)
    weights = {weight.name: weight for weight in folded.graph.initializer}
    for node in [node for node in folded.graph.node if node.op_type == "Transpose" and node.input[0] in weights]:
        permutation = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
        values = numpy_helper.to_array(weights[node.input[0]]).transpose(permutation)
        folded.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), node.output[0]))
        folded.graph.node.remove(node)
    return _drop_unused(folded)


def _drop_unused(model: onnx.ModelProto) -> onnx.ModelProto:
    used = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    for weight in [weight for weight in model.graph.initializer if weight.name not in used]:
        model.graph.initializer.remove(weight)
    return model

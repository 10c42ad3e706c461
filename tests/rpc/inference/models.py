"""A model that remembers nothing, and one that is told of its sequence."""

from typing import Any

import numpy as np
import onnx
import torch

from conveyor.signature import Axis, ContextSpec, OutputSpec, Signature, StateSpec, TensorSpec
from tests.models import GraphBuilder


def make_stateless_model() -> tuple[onnx.ModelProto, Any]:
    """`x` `[B, 3]` times a matrix: `y` `[B, 5]`, and if it is asked for `double` `[B, 5]`; with its reference."""
    weight = torch.arange(15.0).reshape(3, 5)
    graph = GraphBuilder()
    graph.constant("weight", weight)
    graph.node("MatMul", ["x", "weight"], ["y"])
    graph.node("Add", ["y", "y"], ["double"])
    rows = Axis(batch=0)
    signature = Signature(
        inputs=(TensorSpec("x", "float32", (3,), rows),),
        states=(),
        outputs=(
            OutputSpec("y", "float32", (5,), rows),
            OutputSpec("double", "float32", (5,), rows, is_optional=True),
        ),
    )
    return graph.model(signature), lambda x: x @ weight.numpy().astype(np.float32)


def make_scaled_model() -> onnx.ModelProto:
    """`y` is `x` `[B, 3]` times `by`, a constant that is 2 unless it is given; there is no state."""
    graph = GraphBuilder()
    graph.node("Mul", ["x", "by"], ["y"])
    rows = Axis(batch=0)
    signature = Signature(
        inputs=(TensorSpec("x", "float32", (3,), rows),),
        states=(),
        outputs=(OutputSpec("y", "float32", (3,), rows),),
        contexts=(ContextSpec("by", "float32", default=(2.0,)),),
    )
    return graph.model(signature)


def make_control_model() -> tuple[onnx.ModelProto, None]:
    """Sums `x` `[T, B, 1]`: `y` `[T, B, 5]` is the sum, then START, END, READY and CORRID as the graph got them."""
    graph = GraphBuilder()
    graph.constant("time_axis", torch.tensor(0))
    graph.constant("last", torch.tensor(-1))
    graph.node("CumSum", ["x", "time_axis"], ["sums"])
    graph.node("Add", ["sums", "sum"], ["total"])
    graph.node("Gather", ["total", "last"], ["sum_out"], axis=0)
    graph.node("Cast", ["CORRID"], ["id"], to=onnx.TensorProto.FLOAT)
    graph.node("Concat", ["total", "START", "END", "READY", "id"], ["y"], axis=2)
    steps = Axis(batch=1, time=0)
    names = {"x": "float32", "START": "float32", "END": "float32", "READY": "float32", "CORRID": "int64"}
    signature = Signature(
        inputs=tuple(TensorSpec(name, dtype, (1,), steps) for name, dtype in names.items()),
        states=(StateSpec("sum", "float32", (1,), Axis(batch=0), output="sum_out"),),
        outputs=(OutputSpec("y", "float32", (5,), steps),),
    )
    return graph.model(signature), None

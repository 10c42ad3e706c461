"""A model that remembers nothing."""

from typing import Any

import numpy as np
import onnx
import torch

from conveyor.signature import Axis, OutputSpec, Signature, TensorSpec
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

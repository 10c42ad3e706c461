"""Writes ONNX graphs: nodes that name their own outputs, and constants that are written once."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

# Old enough for every onnxruntime that we support, new enough for TopK, ScatterElements and CumSum as they are used.
OPSET = 18
IR_VERSION = 8


class GraphBuilder:
    """Collects nodes and constants. `prefix` goes before every name that is made up here."""

    def __init__(self, prefix: str = "") -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._prefix = prefix

    def constant(self, value: ArrayLike, dtype: str = "int64") -> str:
        """Adds a constant and returns its name."""
        array: NDArray[Any] = np.asarray(value, dtype)
        name = f"{self._prefix}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def add(self, op_type: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """Adds a node of one output and returns the output's name."""
        return self.add_many(op_type, inputs, [output or f"{self._prefix}{op_type}_{len(self.nodes)}"], **attributes)[0]

    def add_many(self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Sequence[str]:
        """Adds a node of several outputs and returns their names."""
        name = f"{self._prefix}{op_type}_node_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), list(outputs), name=name, **attributes))
        return outputs

    def model(self, inputs: Iterable[ValueInfoProto], outputs: Iterable[ValueInfoProto]) -> ModelProto:
        """Closes the graph into a model."""
        graph = helper.make_graph(self.nodes, "conveyor", list(inputs), list(outputs), self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def value_info(name: str, dtype: str, shape: Sequence[int | str | None] | None) -> ValueInfoProto:
    """Declares a graph input or output; a length that is a string is a symbol; a shape of None is any rank."""
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

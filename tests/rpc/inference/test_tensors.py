"""Tensors in the protocol's two forms."""

from typing import Any

import numpy as np
import pytest

from conveyor.errors import InvalidArgument
from conveyor.inference.infer_pb2 import ModelInferRequest, ModelInferResponse
from conveyor.rpc.inference.tensors import DATATYPES, add_output, read_tensor

Tensor = ModelInferRequest.InferInputTensor


@pytest.mark.parametrize("dtype", DATATYPES)
def test_raw_tensors_come_back(dtype: str) -> None:
    """What is written is read, bit by bit."""
    array = np.array([[0, 1, 1], [1, 0, 0]]).astype(dtype)
    response = ModelInferResponse()

    add_output(response, "y", array[:, ::-1])
    output = response.outputs[0]
    tensor = Tensor(name="y", datatype=output.datatype, shape=output.shape)
    got = read_tensor(tensor, response.raw_output_contents[0], dtype)

    assert (output.name, got.dtype) == ("y", array.dtype)
    np.testing.assert_array_equal(got, array[:, ::-1])


@pytest.mark.parametrize(
    ("dtype", "contents", "values"),
    [
        ("bool", "bool_contents", [True, False]),
        ("int32", "int_contents", [-1, 2**31 - 1]),
        ("int64", "int64_contents", [-1, 2**63 - 1]),
        ("float32", "fp32_contents", [0.5, -1.0]),
        ("float64", "fp64_contents", [0.1, -1.0]),
    ],
)
def test_typed_tensors_are_read(dtype: str, contents: str, values: list[Any]) -> None:
    """Each type has its field."""
    tensor = Tensor(name="x", datatype=DATATYPES[dtype], shape=[1, 2], contents={contents: values})

    got = read_tensor(tensor, None, dtype)

    assert got.dtype == np.dtype(dtype)
    assert got.tolist() == [values]


@pytest.mark.parametrize(
    ("fields", "raw", "dtype", "field"),
    [
        ({"datatype": "BYTES"}, b"", "int64", "datatype"),
        ({"datatype": "INT32"}, bytes(4), "int64", "datatype"),
        ({"datatype": "INT64"}, bytes(7), "int64", "data"),
        ({"datatype": "INT64"}, None, "int64", "contents.int64_contents"),
        ({"datatype": "INT64", "contents": {"int_contents": [1]}}, None, "int64", "contents.int64_contents"),
        ({"datatype": "INT64", "contents": {"int64_contents": [1, 2]}}, None, "int64", "contents.int64_contents"),
        ({"datatype": "INT64", "contents": {}}, bytes(8), "int64", "contents"),
        ({"datatype": "FP16", "contents": {"fp32_contents": [1]}}, None, "float16", "contents"),
        ({"datatype": "BOOL"}, b"\2", "bool", "data"),
        ({"datatype": "INT64", "shape": [-1, -1]}, bytes(8), "int64", "shape"),
        ({"datatype": "INT64", "shape": [-1, -1], "contents": {"int64_contents": [1]}}, None, "int64", "shape"),
        ({"datatype": "INT64", "shape": [1] * 99, "contents": {"int64_contents": [1]}}, None, "int64", "shape"),
    ],
)
def test_malformed_tensors_are_refused(fields: dict[str, Any], raw: bytes | None, dtype: str, field: str) -> None:
    """The field is named."""
    with pytest.raises(InvalidArgument) as raised:
        read_tensor(Tensor(**{"name": "x", "shape": [1], **fields}), raw, dtype)

    assert raised.value.field == f"inputs[x].{field}"

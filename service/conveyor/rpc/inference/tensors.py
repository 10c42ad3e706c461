"""Tensors of the Open Inference Protocol to NumPy arrays and back."""

from math import prod

import numpy as np

from conveyor.engine.work import Array
from conveyor.errors import InvalidArgument
from conveyor.inference import infer_pb2
from conveyor.rpc.tensors import check_lengths, read_array, shaped

# Names on the wire, and the field of typed contents, by the dtypes of signatures.
DATATYPES = {
    "bool": "BOOL",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
CONTENTS = {
    "bool": "bool_contents",
    "int32": "int_contents",
    "int64": "int64_contents",
    "float32": "fp32_contents",
    "float64": "fp64_contents",
}


def read_tensor(tensor: infer_pb2.ModelInferRequest.InferInputTensor, raw: bytes | None, dtype: str) -> Array:
    """The tensor's elements, from `raw` unless it is None, as an array that is not to be written to.

    Raises:
        InvalidArgument: another type than `dtype`, elements in both places, or not as many as the shape has.
    """
    field = f"inputs[{tensor.name}]"
    if tensor.datatype != DATATYPES[dtype]:
        raise InvalidArgument(f"{field}.datatype", f"expected {DATATYPES[dtype]}, got {tensor.datatype!r}")
    if raw is None:
        return _typed(tensor, dtype, field)
    if tensor.HasField("contents"):
        raise InvalidArgument(f"{field}.contents", "exclusive with raw_input_contents")
    return read_array(raw, np.dtype(dtype).newbyteorder("<"), tuple(tensor.shape), field)


def _typed(tensor: infer_pb2.ModelInferRequest.InferInputTensor, dtype: str, field: str) -> Array:
    if dtype not in CONTENTS:
        raise InvalidArgument(f"{field}.contents", f"{DATATYPES[dtype]} is sent in raw_input_contents")
    values, shape = getattr(tensor.contents, CONTENTS[dtype]), tuple(tensor.shape)
    check_lengths(shape, field)
    if len(values) != prod(shape):
        raise InvalidArgument(
            f"{field}.contents.{CONTENTS[dtype]}",
            f"shape {list(shape)} has {prod(shape)} elements, got {len(values)}",
        )
    return shaped(np.array(values, dtype), shape, field)


def add_output(response: infer_pb2.ModelInferResponse, name: str, array: Array) -> None:
    """Appends the array to the message's outputs."""
    response.outputs.add(name=name, datatype=DATATYPES[array.dtype.name], shape=array.shape)
    response.raw_output_contents.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())

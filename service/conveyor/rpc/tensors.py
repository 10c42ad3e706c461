"""Tensors of the wire to NumPy arrays and back."""

from math import prod
from typing import Any

import numpy as np

from conveyor.engine.work import Array
from conveyor.errors import InvalidArgument
from conveyor.v1 import tensor_pb2

# Little-endian on every machine, as the wire has it.
DTYPES = {
    tensor_pb2.DATA_TYPE_BOOL: np.dtype("?"),
    tensor_pb2.DATA_TYPE_INT32: np.dtype("<i4"),
    tensor_pb2.DATA_TYPE_INT64: np.dtype("<i8"),
    tensor_pb2.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    tensor_pb2.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    tensor_pb2.DATA_TYPE_FLOAT64: np.dtype("<f8"),
}
DATA_TYPES = {dtype.name: data_type for data_type, dtype in DTYPES.items()}


def read_tensor(tensor: tensor_pb2.Tensor, field: str) -> Array:
    """A read-only view of the tensor's bytes. `field` is the tensor's path in the request.

    Raises:
        InvalidArgument: an unknown type, or as `read_array`.
    """
    dtype = DTYPES.get(tensor.data_type)
    if dtype is None:
        raise InvalidArgument(f"{field}.data_type", f"{tensor.data_type} is not a data type")
    return read_array(tensor.data, dtype, tuple(tensor.shape), field)


def read_array(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], field: str) -> Array:
    """A read-only view of row-major, little-endian elements.

    Raises:
        InvalidArgument: a shape that no array has, data that is not of the shape's size, or a BOOL that is neither 0
            nor 1.
    """
    check_lengths(shape, field)
    num_bytes = prod(shape) * dtype.itemsize
    if len(data) != num_bytes:
        raise InvalidArgument(
            f"{field}.data", f"{dtype.name} of shape {list(shape)} is {num_bytes} bytes, got {len(data)}"
        )
    array: Array = np.frombuffer(data, np.uint8 if dtype.kind == "b" else dtype)
    if dtype.kind == "b":
        if array.size and array.max() > 1:
            raise InvalidArgument(f"{field}.data", f"a BOOL is the byte 0 or 1, got {array.max()}")
        array = array.view(np.bool_)
    return shaped(array, shape, field)


def check_lengths(shape: tuple[int, ...], field: str) -> None:
    """Raises InvalidArgument if the shape has a negative length."""
    if any(length < 0 for length in shape):
        raise InvalidArgument(f"{field}.shape", f"{list(shape)} has a negative length")


def shaped(array: Array, shape: tuple[int, ...], field: str) -> Array:
    """The array in a shape of as many elements.

    Raises:
        InvalidArgument: no array has this shape.
    """
    try:
        return array.reshape(shape)
    except ValueError as error:  # NumPy's own bounds: too many axes, or nothing along one that is too long
        raise InvalidArgument(f"{field}.shape", f"cannot be made: {error}") from None


def write_tensor(tensor: tensor_pb2.Tensor, array: Array) -> None:
    """Fills the message from the array."""
    dtype = array.dtype.newbyteorder("<")
    tensor.data_type = DATA_TYPES[array.dtype.name]
    tensor.shape.extend(array.shape)
    tensor.data = array.astype(dtype, copy=False).tobytes()

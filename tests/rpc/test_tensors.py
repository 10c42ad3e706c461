"""Tensors of the wire."""

import numpy as np
import pytest

from conveyor.errors import InvalidArgument
from conveyor.rpc.tensors import DTYPES, read_tensor, write_tensor
from conveyor.v1 import tensor_pb2

FLOAT32 = tensor_pb2.DATA_TYPE_FLOAT32


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)])
def test_arrays_survive_the_wire(dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Every type and shape comes back as it went."""
    array = (np.random.default_rng(0).random(shape) * 100).astype(dtype)
    tensor = tensor_pb2.Tensor()

    write_tensor(tensor, array)
    result = read_tensor(tensor_pb2.Tensor.FromString(tensor.SerializeToString()), "x")

    assert result.dtype == array.dtype
    np.testing.assert_array_equal(result, array)


def test_any_layout_is_written_row_major() -> None:
    """A transposed array is sent in the order of its own axes."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    tensor = tensor_pb2.Tensor()

    write_tensor(tensor, array)

    np.testing.assert_array_equal(read_tensor(tensor, "x"), array)


@pytest.mark.parametrize(
    ("tensor", "field", "problem"),
    [
        (tensor_pb2.Tensor(shape=[1], data=b"0000"), "x.data_type", "0 is not a data type"),
        (tensor_pb2.Tensor(data_type=99, shape=[1], data=b"0000"), "x.data_type", "99 is not"),
        (tensor_pb2.Tensor(data_type=FLOAT32, shape=[-1], data=b""), "x.shape", "negative"),
        (tensor_pb2.Tensor(data_type=FLOAT32, shape=[2], data=b"0000"), "x.data", "is 8 bytes, got 4"),
        (tensor_pb2.Tensor(data_type=FLOAT32, shape=[1], data=b"00000"), "x.data", "is 4 bytes, got 5"),
        (tensor_pb2.Tensor(data_type=FLOAT32, shape=[2**62, 2**62], data=b""), "x.data", "bytes, got 0"),
        (tensor_pb2.Tensor(data_type=FLOAT32, shape=[2**62, 2**62, 0], data=b""), "x.shape", "cannot be made"),
        (tensor_pb2.Tensor(data_type=FLOAT32, shape=[1] * 65, data=b"0000"), "x.shape", "cannot be made"),
        (tensor_pb2.Tensor(data_type=tensor_pb2.DATA_TYPE_BOOL, shape=[2], data=b"\1\2"), "x.data", "got 2"),
    ],
)
def test_malformed_tensors_are_refused(tensor: tensor_pb2.Tensor, field: str, problem: str) -> None:
    """The error names the part of the tensor that is wrong, what was expected and what came."""
    with pytest.raises(InvalidArgument, match=problem) as raised:
        read_tensor(tensor, "x")

    assert raised.value.field == field

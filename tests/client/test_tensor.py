"""Tensors with and without numpy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from conveyor.client import InvalidArgument, Tensor
from conveyor.client.tensor import DTYPE_NAMES


@given(arrays.arrays(st.sampled_from(sorted(DTYPE_NAMES.values())), arrays.array_shapes(max_side=4)))
def test_arrays_survive_the_wire(array: np.ndarray) -> None:
    """Any array of a type that crosses the wire comes back bit by bit, whatever its layout."""
    tensor = Tensor.from_message(Tensor.from_array(array.T).to_message())

    assert tensor.shape == array.T.shape
    assert tensor.numpy().tobytes() == array.T.tobytes()
    np.testing.assert_array_equal(np.array(tensor.tolist(), dtype=array.dtype), array.T)


@pytest.mark.parametrize("dtype", sorted(DTYPE_NAMES.values()))
def test_lists_become_tensors(dtype: str) -> None:
    """Nested lists become the tensor that numpy makes of them, and lists again."""
    values = [[1, 0, 1], [0, 1, 1]]
    tensor = Tensor.from_list(values, dtype)

    np.testing.assert_array_equal(tensor.numpy(), np.array(values, dtype=dtype))
    assert tensor.tolist() == values


@pytest.mark.parametrize(
    ("values", "dtype"), [([[1], [1, 2]], "float32"), (["a"], "float32"), ([1.5], "int64"), ([1], "complex64")]
)
def test_what_is_no_tensor_is_refused(values: list[object], dtype: str) -> None:
    """Ragged lists, text, fractions for integers and foreign types are refused with the field's name."""
    with pytest.raises(InvalidArgument) as refusal:
        Tensor.from_list(values, dtype)
    assert refusal.value.field in ("inputs", "dtype")


def test_a_foreign_array_is_refused() -> None:
    """An array of a type that does not cross the wire is refused."""
    with pytest.raises(InvalidArgument, match="uint8"):
        Tensor.from_array(np.zeros(3, np.uint8))


def test_a_single_number_is_a_tensor() -> None:
    """A tensor without axes holds one number."""
    assert Tensor.from_list(2.5).tolist() == 2.5

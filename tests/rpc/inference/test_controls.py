"""What control inputs are filled with."""

import numpy as np
import pytest

from conveyor.errors import InvalidArgument
from conveyor.rpc.inference.controls import control_value
from conveyor.rpc.inference.parameters import Parameters
from conveyor.signature import Axis, TensorSpec


def value_of(name: str, dtype: str, sequence_id: str = "5") -> np.ndarray:
    """The control of a request of three steps that begins its sequence."""
    spec = TensorSpec(name, dtype, (1,), Axis(batch=1, time=0))
    return control_value(spec, Parameters(sequence_id, is_start=True, is_end=False, timeout=1.0), 3)


@pytest.mark.parametrize("dtype", ["bool", "int32", "int64", "float16", "float32", "float64"])
def test_flags_of_every_type(dtype: str) -> None:
    """1 at the first step, at the last if it ends the sequence, and at each, as the input's own type."""
    flags = [value_of(name, dtype) for name in ("START", "END", "READY")]

    assert [flag.ravel().tolist() for flag in flags] == [[1, 0, 0], [0, 0, 0], [1, 1, 1]]
    assert {flag.dtype for flag in flags} == {np.dtype(dtype)}


@pytest.mark.parametrize(
    ("dtype", "highest"),
    [("int32", 2**31 - 1), ("int64", 2**63 - 1), ("float16", 2**11), ("float32", 2**24), ("float64", 2**53)],
)
def test_an_id_is_given_whole(dtype: str, highest: int) -> None:
    """A number that the type would round is refused: it would be another sequence's."""
    assert [int(number) for number in value_of("CORRID", dtype, str(highest)).ravel()] == [highest] * 3
    for sequence_id in (str(highest + 1), "five"):
        with pytest.raises(InvalidArgument, match=f"a number up to {highest}"):
            value_of("CORRID", dtype, sequence_id)

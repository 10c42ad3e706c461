"""Control inputs: what a model wants to be told of its sequence, and the server tells it."""

from typing import Any

import numpy as np

from conveyor.engine.work import Array
from conveyor.errors import InvalidArgument
from conveyor.rpc.inference.parameters import Parameters
from conveyor.signature import TensorSpec

# The inputs of these names, as Triton's models have them.
CONTROLS = ("START", "END", "READY", "CORRID")


def control_value(spec: TensorSpec, parameters: Parameters, num_steps: int) -> Array:
    """`[steps, ...]` of a control: 1 at the sequence's first step, at its last, at every one; or the sequence's id.

    Raises:
        InvalidArgument: the id is no number that the input holds.
    """
    value: Array = np.zeros((num_steps, *spec.shape), spec.dtype)
    if spec.name == "START":
        value[:1] = parameters.is_start
    elif spec.name == "END":
        value[-1:] = parameters.is_end
    elif spec.name == "READY":
        value[:] = 1
    else:
        value[:] = _number(parameters.sequence_id, value.dtype)
    return value


def _number(sequence_id: str, dtype: np.dtype[Any]) -> int:
    number = int(sequence_id) if sequence_id.isdecimal() else -1
    highest = _highest(dtype)
    if not 0 <= number <= highest:
        raise InvalidArgument(
            "parameters[sequence_id]", f"the model takes it as a number up to {highest}, got {sequence_id!r}"
        )
    return number


def _highest(dtype: np.dtype[Any]) -> int:
    """The greatest number up to which the type has all."""
    if dtype.kind == "f":
        return int(2 ** (np.finfo(dtype).nmant + 1))
    return int(np.iinfo(dtype).max) if dtype.kind == "i" else 1

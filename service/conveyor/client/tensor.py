"""Dense arrays that cross the wire, with or without numpy."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from conveyor.client.errors import InvalidArgument
from conveyor.v1 import tensor_pb2

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# dtype -> (wire type, struct's letter)
_TYPES = {
    "bool": (tensor_pb2.DATA_TYPE_BOOL, "?"),
    "int32": (tensor_pb2.DATA_TYPE_INT32, "i"),
    "int64": (tensor_pb2.DATA_TYPE_INT64, "q"),
    "float16": (tensor_pb2.DATA_TYPE_FLOAT16, "e"),
    "float32": (tensor_pb2.DATA_TYPE_FLOAT32, "f"),
    "float64": (tensor_pb2.DATA_TYPE_FLOAT64, "d"),
}
DTYPE_NAMES = {int(wire_type): dtype for dtype, (wire_type, _) in _TYPES.items()}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A dense array: row-major, little-endian bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def from_list(cls, values: Any, dtype: str = "float32") -> "Tensor":
        """A tensor of nested lists of equal lengths, or of one number.

        Raises:
            InvalidArgument: ragged lists, or values that the dtype cannot hold.
        """
        shape = _shape(values)
        flat = list(_flatten(values))
        if dtype not in _TYPES:
            raise InvalidArgument(f"dtype: {dtype!r} is not one of {', '.join(_TYPES)}", field="dtype")
        if len(flat) != prod(shape):
            raise InvalidArgument("inputs: nested lists of unequal lengths", field="inputs")
        try:
            data = struct.pack(f"<{len(flat)}{_TYPES[dtype][1]}", *flat)
        except (struct.error, OverflowError, TypeError) as error:
            raise InvalidArgument(f"inputs: not {dtype}: {error}", field="inputs") from None
        return cls(dtype, shape, data)

    @classmethod
    def from_array(cls, array: Any) -> "Tensor":
        """A tensor of a numpy array, or of anything that looks like one.

        Raises:
            InvalidArgument: a dtype that does not cross the wire.
        """
        dtype = str(array.dtype)
        if dtype not in _TYPES:
            raise InvalidArgument(f"inputs: dtype {dtype} is not one of {', '.join(_TYPES)}", field="inputs")
        return cls(dtype, tuple(array.shape), array.tobytes())

    @classmethod
    def from_message(cls, message: tensor_pb2.Tensor) -> "Tensor":
        """Reads the wire's form."""
        return cls(DTYPE_NAMES[message.data_type], tuple(message.shape), message.data)

    def to_message(self) -> tensor_pb2.Tensor:
        """The wire's form."""
        return tensor_pb2.Tensor(data_type=_TYPES[self.dtype][0], shape=self.shape, data=self.data)

    def numpy(self) -> "NDArray[np.generic]":
        """The values as a read-only numpy array, without a copy. Needs numpy."""
        import numpy as np

        return np.frombuffer(self.data, dtype=self.dtype).reshape(self.shape)

    def tolist(self) -> Any:
        """The values as nested lists; a number where the shape is empty."""
        flat = struct.unpack(f"<{prod(self.shape)}{_TYPES[self.dtype][1]}", self.data)
        return _nest(flat, self.shape)

    def __len__(self) -> int:
        return self.shape[0]


def _shape(values: Any) -> tuple[int, ...]:
    if not _is_list(values):
        return ()
    return (len(values), *(_shape(values[0]) if values else ()))


def _is_list(values: Any) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str | bytes)


def _flatten(values: Any) -> Iterable[Any]:
    if not _is_list(values):
        yield values
        return
    if len({_shape(value) for value in values}) > 1:
        raise InvalidArgument("inputs: nested lists of unequal lengths", field="inputs")
    for value in values:
        yield from _flatten(value)


def _nest(flat: Sequence[Any], shape: tuple[int, ...]) -> Any:
    if not shape:
        return flat[0]
    if len(shape) == 1:
        return list(flat)
    stride = prod(shape[1:])
    return [_nest(flat[i * stride : (i + 1) * stride], shape[1:]) for i in range(shape[0])]

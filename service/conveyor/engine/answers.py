"""Answers that a client may not have, as bytes: another server gives them when it is asked again."""

import json
import struct
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from conveyor.engine.drawn import Drawn
from conveyor.engine.session import Kept
from conveyor.engine.work import Answer, Array, Want

_LENGTH = struct.Struct("<I")  # of the description, which the arrays follow


def encode_answers(kept: Sequence[Kept], drawn: Drawn | None) -> bytes:
    """Kept answers and tokens as bytes: none if there are none."""
    if not kept and drawn is None:
        return b""
    arrays: list[Array] = []
    fields = {"kept": [_fields(each, arrays) for each in kept], "drawn": drawn and drawn.fields()}
    description = json.dumps(fields, separators=(",", ":")).encode()
    return b"".join((_LENGTH.pack(len(description)), description, *(array.tobytes() for array in arrays)))


def decode_answers(data: bytes) -> tuple[tuple[Kept, ...], Drawn | None]:
    """Reads what `encode_answers` made.

    Raises:
        ValueError, KeyError, TypeError: these are no answers.
    """
    if not data:
        return (), None
    end = _LENGTH.size + _LENGTH.unpack_from(data.ljust(_LENGTH.size))[0]
    fields = json.loads(data[_LENGTH.size : end])
    reader = _Reader(data[end:])
    kept = tuple(_kept(each, reader) for each in fields["kept"])
    return kept, None if fields["drawn"] is None else Drawn.from_fields(fields["drawn"])


def _fields(kept: Kept, arrays: list[Array]) -> dict[str, Any]:
    answer = {name: getattr(kept.answer, name) for name in Answer.__slots__ if name != "outputs"}
    return {
        "start": kept.start,
        "want": asdict(kept.want),
        "inputs": _shapes(kept.inputs, arrays),
        "answer": answer,
        "outputs": _shapes(kept.answer.outputs, arrays),
    }


def _shapes(named: dict[str, Array], arrays: list[Array]) -> dict[str, Any]:
    arrays += named.values()
    return {name: (array.dtype.str, array.shape) for name, array in named.items()}


def _kept(fields: dict[str, Any], reader: "_Reader") -> Kept:
    want = Want(**fields["want"] | {"names": tuple(fields["want"]["names"])})
    inputs = reader.take(fields["inputs"])
    return Kept(fields["start"], inputs, want, Answer(**fields["answer"], outputs=reader.take(fields["outputs"])))


class _Reader:
    """Arrays that lie one behind another."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._start = 0

    def take(self, shapes: dict[str, Any]) -> dict[str, Array]:
        return {name: self._next(np.dtype(dtype), shape) for name, (dtype, shape) in shapes.items()}

    def _next(self, dtype: np.dtype[Any], shape: Sequence[int]) -> Array:
        count = int(np.prod(shape))
        array = np.frombuffer(self._data, dtype, count, self._start).reshape(shape)
        self._start += array.nbytes
        return array

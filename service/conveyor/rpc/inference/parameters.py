"""A request's parameters: which sequence, its beginning and end, and how long the request may wait."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from conveyor.errors import InvalidArgument, Unimplemented
from conveyor.inference import infer_pb2

MAX_ID_LENGTH = 128

# Those that are known, and the kinds of value that each may have. The last two are of no effect.
KINDS = {
    "sequence_id": ("int64_param", "string_param", "uint64_param"),
    "sequence_start": ("bool_param",),
    "sequence_end": ("bool_param",),
    "timeout": ("int64_param", "uint64_param"),
    "priority": ("int64_param", "uint64_param"),
    "triton_enable_empty_final_response": ("bool_param",),
}
# Those of tensors that change what is sent: to leave them out of account would be a wrong answer.
REFUSED = {
    "classification": "classes are not served: ask for the output itself",
    "shared_memory_region": "shared memory is not served: tensors travel in messages",
}


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the parameters say. `sequence_id` is empty if there is none; `timeout` is in seconds."""

    sequence_id: str
    is_start: bool
    is_end: bool
    timeout: float


def read_parameters(parameters: Mapping[str, infer_pb2.InferParameter]) -> Parameters:
    """Reads the parameters of a request.

    Raises:
        InvalidArgument: one has a value of the wrong kind or out of range, or a reserved name.
    """
    values = {name: _value(name, parameter) for name, parameter in parameters.items()}
    return Parameters(
        _sequence_id(values.get("sequence_id", "")),
        values.get("sequence_start", False),
        values.get("sequence_end", False),
        _timeout(values.get("timeout", 0)),
    )


def refuse_parameters(parameters: Mapping[str, infer_pb2.InferParameter], field: str) -> None:
    """Checks the parameters of an input or an output, of which none is served.

    Raises:
        Unimplemented: one would change what is sent.
    """
    for name in parameters:
        if name in REFUSED:
            raise Unimplemented(f"{field}.parameters[{name}]: {REFUSED[name]}")


def _value(name: str, parameter: infer_pb2.InferParameter) -> Any:
    kinds = KINDS.get(name)
    if kinds is None:
        if name.startswith("triton_"):
            raise InvalidArgument(f"parameters[{name}]", "names that begin with 'triton_' are reserved")
        return None
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in kinds:
        raise InvalidArgument(
            f"parameters[{name}]", f"invalid value type for '{name}' parameter, expected {' or '.join(kinds)}"
        )
    return getattr(parameter, kind)


def _sequence_id(value: int | str) -> str:
    if isinstance(value, int):
        # Clients of other languages have unsigned ids and send them as signed ones.
        return str(value % 2**64) if value else ""
    if len(value) > MAX_ID_LENGTH or not all("!" <= character <= "~" for character in value):
        raise InvalidArgument(
            "parameters[sequence_id]", f"must be up to {MAX_ID_LENGTH} visible ASCII characters, got {value[:130]!r}"
        )
    return value


def _timeout(microseconds: int) -> float:
    if microseconds < 0:
        raise InvalidArgument("parameters[timeout]", f"must be 0 or more microseconds, got {microseconds}")
    return microseconds / 1e6 or inf

"""When a session's state is stored outside its server's process."""

from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from conveyor.client.errors import InvalidArgument
from conveyor.client.message import message_from
from conveyor.v1 import session_pb2

_LONGEST_SECONDS = 315_576_000_000  # the protocol's Duration holds no more
_MODES = {
    "none": session_pb2.DURABILITY_MODE_NONE,
    "async": session_pb2.DURABILITY_MODE_ASYNC,
    "sync": session_pb2.DURABILITY_MODE_SYNC,
}
_NAMES = {mode: name for name, mode in _MODES.items()}


@dataclass(frozen=True, slots=True)
class Durability:
    """`mode` is `none`, `async` or `sync`.

    With `async` a step waits for a checkpoint until `every_steps` have come together or `every` seconds have passed,
    whichever is first; 0 and None take the server's defaults.
    """

    mode: str = "none"
    every_steps: int = 0
    every: float | None = None


def durability_message(durability: Durability | str | None) -> session_pb2.Durability | None:
    """The wire's form of a durability, or of its mode alone.

    Raises:
        InvalidArgument: an unknown mode, or a field that cannot be what is given.
    """
    if durability is None:
        return None
    if isinstance(durability, str):
        durability = Durability(durability)
    if durability.mode not in _MODES:
        problem = f"durability.mode: must be one of {', '.join(_MODES)}, got {durability.mode!r}"
        raise InvalidArgument(problem, field="durability.mode")
    return message_from(
        session_pb2.Durability,
        "durability.",
        mode=_MODES[durability.mode],
        every_steps=durability.every_steps,
        every=duration_message("durability.every", durability.every),
    )


def durability_from(message: session_pb2.Durability) -> Durability:
    """Reads the wire's form."""
    every = message.every.ToTimedelta().total_seconds() if message.HasField("every") else None
    return Durability(_NAMES.get(message.mode, "none"), message.every_steps, every)


def duration_message(field: str, seconds: float | None) -> Duration | None:
    """The wire's form of a time; None stays None.

    Raises:
        InvalidArgument: it is not above 0, or too long.
    """
    if seconds is None:
        return None
    if not 0 < seconds <= _LONGEST_SECONDS:
        problem = f"{field}: must be above 0 s and at most {_LONGEST_SECONDS} s, got {seconds} s"
        raise InvalidArgument(problem, field=field)
    return to_duration(seconds)


def to_duration(seconds: float) -> Duration:
    """The wire's form of a time that it can hold."""
    return Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))

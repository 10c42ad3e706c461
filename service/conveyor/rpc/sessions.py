"""Requests for sessions to the engine's options, and its sessions to messages."""

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from conveyor.engine.durability import Durability, Mode
from conveyor.engine.work import Array, OpenOptions, Residency, SessionView
from conveyor.errors import InvalidArgument
from conveyor.rpc.durations import duration_message, seconds_of
from conveyor.rpc.tensors import read_tensor
from conveyor.v1 import session_pb2

Opening = session_pb2.OpenSessionRequest | session_pb2.ImportSessionRequest

RESIDENCES: dict[Residency, Any] = {
    residence: session_pb2.Residence.Value(f"RESIDENCE_{residence.name}") for residence in Residency
}
MODES: dict[Any, Mode] = {session_pb2.DurabilityMode.Value(f"DURABILITY_MODE_{mode.name}"): mode for mode in Mode}


def open_options(request: Opening, default: Durability) -> OpenOptions:
    """How the request wants its session.

    Raises:
        InvalidArgument: a malformed id or durability, a time that is not above 0.
    """
    return OpenOptions(
        session_id=_new_id(request.session_id, "session_id"),
        seed=request.seed if request.HasField("seed") else None,
        idle_timeout=_seconds(request, "idle_timeout"),
        max_lifetime=_seconds(request, "max_lifetime"),
        durability=read_durability(request, default),
    )


def fork_options(request: session_pb2.ForkSessionRequest, default: Durability) -> OpenOptions:
    """How the request wants its new session.

    Raises:
        InvalidArgument: a malformed id or durability.
    """
    return OpenOptions(
        session_id=_new_id(request.new_session_id, "new_session_id"),
        seed=request.seed if request.HasField("seed") else None,
        durability=read_durability(request, default),
    )


def _new_id(session_id: str, field: str) -> str | None:
    if len(session_id) > 128 or not all("!" <= character <= "~" for character in session_id):
        raise InvalidArgument(field, f"must be 1 to 128 visible ASCII characters, got {session_id[:130]!r}")
    return session_id or None


def read_durability(request: Opening | session_pb2.ForkSessionRequest, default: Durability) -> Durability | None:
    """The durability that a request asks for, None if it does not say; what it leaves open is as in the default one.

    Raises:
        InvalidArgument: a mode that there is not, a number that is not above 0.
    """
    message = request.durability
    if not request.HasField("durability"):
        return None
    mode = MODES.get(message.mode) if message.mode else default.mode
    if mode is None:
        raise InvalidArgument("durability.mode", f"must be NONE, ASYNC or SYNC, got {message.mode}")
    _require(message.every_steps >= 0, "durability.every_steps", f"must be at least 0, got {message.every_steps}")
    every = _seconds(message, "every", "durability.every")
    return Durability(mode, message.every_steps or default.every_steps, every or default.every_seconds)


def read_contexts(request: session_pb2.OpenSessionRequest) -> dict[str, Array]:
    """The contexts by name.

    Raises:
        InvalidArgument: a malformed tensor.
    """
    return {name: read_tensor(tensor, f"contexts[{name}]") for name, tensor in request.contexts.items()}


def _seconds(request: Any, field: str, path: str = "") -> float | None:
    if not request.HasField(field):
        return None
    seconds = seconds_of(getattr(request, field))
    _require(seconds > 0, path or field, f"must be above 0 s, got {seconds} s")
    return seconds


def _require(holds: bool, field: str, problem: str) -> None:
    if not holds:
        raise InvalidArgument(field, problem)


def session_message(view: SessionView) -> session_pb2.Session:
    """The session as clients see it."""
    message = session_pb2.Session(
        session_id=view.session_id,
        model_name=view.model_name,
        model_version=view.model_version,
        position=view.position,
        seed=view.seed,
        create_time=_timestamp(view.create_time),
        expire_time=_timestamp(view.expire_time),
        residence=RESIDENCES[view.residence],
        state_bytes=view.state_bytes,
        durability=_durability_message(view.durability),
        epoch=view.epoch,
    )
    if view.durable_position is not None:
        message.durable_position = view.durable_position
    return message


def _durability_message(durability: Durability) -> session_pb2.Durability:
    mode: Any = session_pb2.DurabilityMode.Value(f"DURABILITY_MODE_{durability.mode.name}")
    if durability.mode is not Mode.ASYNC:
        return session_pb2.Durability(mode=mode)
    every = duration_message(durability.every_seconds)
    return session_pb2.Durability(mode=mode, every_steps=durability.every_steps, every=every)


def _timestamp(seconds: float) -> Timestamp:
    whole = int(seconds)
    return Timestamp(seconds=whole, nanos=int((seconds - whole) * 1e9))

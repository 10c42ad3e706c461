"""Every failure that the client raises, and how each is read from the wire.

ClientError                 `code`, `field`, `position`, `retry_after`
├── InvalidArgument         a field is malformed: `field` names it
├── NotFound                unknown model; unknown, expired or closed session
│   └── SessionEnded        the server ended the session and said why: `reason`
├── AlreadyExists           a session of that id is open
├── WrongPosition           the session is elsewhere: at `position`
│   └── ReplayLost          it came back at `position`, before inputs that are no longer kept
├── Aborted                 another request of the session stood in the way, or one before it failed
├── ResourceExhausted       the server is full
├── Unavailable             no connection, or the server is draining
├── FailedPrecondition      the model or the session cannot do this
├── DeadlineExceeded        no answer in time
│   └── StepTimeout         of a step, which may yet be taken: `position` is where it began
└── ServerError             any other code
"""

from collections.abc import Iterable
from typing import ClassVar

import grpc

from conveyor.v1 import step_pb2

Code = grpc.StatusCode

# CANCELLED is a proxy's or a server's doing: a call that this client cancels has nobody left to tell.
_RETRIED = {Code.UNAVAILABLE, Code.ABORTED, Code.RESOURCE_EXHAUSTED, Code.CANCELLED}
# gRPC's words for a message that is longer than the other side takes.
_TOO_LARGE = "larger than max"
# A connection that breaks under a call shows as INTERNAL where the peer reset the stream, or while the call starts.
_BROKEN = ("RST_STREAM", "Internal error from Core")


class ClientError(Exception):
    """A failure. `retry_after` is in seconds, None where the server gave no advice."""

    default_code: ClassVar[Code] = Code.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        code: Code | None = None,
        field: str | None = None,
        position: int | None = None,
        retry_after: float | None = None,
        epoch: int = 0,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.field = field
        self.position = position
        self.retry_after = retry_after
        self.epoch = epoch  # of the session, where the client did not know it; else 0

    @property
    def is_too_large(self) -> bool:
        """True if a message was longer than the server takes, now or later."""
        return self.code is Code.RESOURCE_EXHAUSTED and _TOO_LARGE in self.message

    @property
    def is_retriable(self) -> bool:
        """True if the same request may succeed later, and cannot be taken twice when its position is given."""
        if self.is_too_large:
            return False
        return self.code in _RETRIED or (self.code is Code.INTERNAL and any(sign in self.message for sign in _BROKEN))


class InvalidArgument(ClientError):
    """A field is malformed; `field` names it."""

    default_code = Code.INVALID_ARGUMENT


class NotFound(ClientError):
    """Unknown model; unknown, expired or closed session."""

    default_code = Code.NOT_FOUND
    is_certain = True  # False where not all servers were asked that may have it


class SessionEnded(NotFound):
    """The server ended the session. `reason` is one of closed, idle, lifetime, drained, unloaded, moved."""

    def __init__(self, session_id: str, reason: str, position: int) -> None:
        super().__init__(f"session {session_id} has ended at position {position}: {reason}", position=position)
        self.reason = reason


class AlreadyExists(ClientError):
    """A session of that id is open."""

    default_code = Code.ALREADY_EXISTS


class WrongPosition(ClientError):
    """The session is not where the request has it; `position` is its own."""

    default_code = Code.OUT_OF_RANGE


class ReplayLost(WrongPosition):
    """The session came back behind what was answered, and the inputs since then are not all kept.

    `position` is where it is now, and where the next step goes on: give again what came after it, or open a new one.
    """

    def __init__(self, session_id: str, position: int, start: int) -> None:
        super().__init__(
            f"session {session_id} came back at position {position}; its inputs before position {start} are not kept",
            position=position,
        )


class Aborted(ClientError):
    """Another request of the session stood in the way, or one before it failed; nothing was consumed."""

    default_code = Code.ABORTED


class ResourceExhausted(ClientError):
    """The server is full, and was for as long as the caller would wait."""

    default_code = Code.RESOURCE_EXHAUSTED


class Unavailable(ClientError):
    """There is no connection, or the server is draining."""

    default_code = Code.UNAVAILABLE


class FailedPrecondition(ClientError):
    """The model or the session cannot do this."""

    default_code = Code.FAILED_PRECONDITION


class DeadlineExceeded(ClientError):
    """No answer in time."""

    default_code = Code.DEADLINE_EXCEEDED


class StepTimeout(DeadlineExceeded):
    """A step was not answered in time, and it is not known whether it was taken.

    `position` is where it began. Giving the same input again is safe: it is taken once. Other input is refused with
    WrongPosition if the step was taken; `refresh` tells.
    """


class ServerError(ClientError):
    """The server failed in a way that no client can mend; `code` tells which."""

    default_code = Code.INTERNAL


_CLASSES: dict[Code, type[ClientError]] = {
    kind.default_code: kind
    for kind in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        WrongPosition,
        Aborted,
        ResourceExhausted,
        Unavailable,
        FailedPrecondition,
        DeadlineExceeded,
        ServerError,
    )
}
_CODES: dict[int, Code] = {code.value[0]: code for code in Code}


def from_result(error: step_pb2.Error) -> ClientError:
    """Reads the failure of one chunk."""
    code = _CODES.get(error.code, Code.UNKNOWN)
    return _CLASSES.get(code, ServerError)(
        error.message,
        code=code,
        field=error.field or None,
        position=error.position if error.HasField("position") else None,
        retry_after=error.retry_delay.ToTimedelta().total_seconds() if error.HasField("retry_delay") else None,
        epoch=error.epoch,
    )


def from_status(code: Code, details: str | None, trailers: Iterable[tuple[str, str | bytes]] | None) -> ClientError:
    """Reads the status of a call that failed."""
    metadata = {key: value for key, value in trailers or () if isinstance(value, str)}
    position = metadata.get("conveyor-position", "")
    pushback = metadata.get("grpc-retry-pushback-ms", "")
    epoch = metadata.get("conveyor-epoch", "")
    return _CLASSES.get(code, ServerError)(
        details or code.name,
        code=code,
        field=metadata.get("conveyor-field"),
        position=int(position) if position.isdecimal() else None,
        retry_after=int(pushback) / 1000 if pushback.isdecimal() else None,
        epoch=int(epoch) if epoch.isdecimal() else 0,
    )


def from_call(error: grpc.aio.AioRpcError) -> ClientError:
    """Reads the failure of a call."""
    return from_status(error.code(), error.details(), error.trailing_metadata())

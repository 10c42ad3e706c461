"""Every failure that Conveyor tells a client about. These know no transport: `rpc/status.py` maps them to gRPC.

ConveyorError
├── InvalidArgument         a field is malformed
├── NotFound                unknown model; unknown, expired or closed session
├── AlreadyExists           a session of that id is open
├── WrongPosition           the position is neither the session's nor that of its kept answer
├── Aborted                 another request of the session is in flight, or one before it failed
│   └── Superseded          the client has not seen the session's epoch
├── ResourceExhausted       sessions, queue or memory are full
├── Unavailable             draining or loading
├── FailedPrecondition      the model cannot do this
├── DeadlineExceeded        the deadline passed before the steps ran
├── Unimplemented           the call, or something in it, is not served here
└── RunFailed               the model's run failed; the session is as it was before
"""


class ConveyorError(Exception):
    """A failure that the client may read. `retry_after` is in seconds, None where a retry cannot help."""

    retry_after: float | None = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidArgument(ConveyorError):
    """A field is malformed. `field` is its path in the request."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class NotFound(ConveyorError):
    """Nothing has this name."""


class AlreadyExists(ConveyorError):
    """A session of that id is open."""


class WrongPosition(ConveyorError):
    """The request's position is not the session's. `position` is the session's own."""

    def __init__(self, got: int, position: int) -> None:
        super().__init__(f"position: the session is at {position}, got {got}")
        self.position = position


class Aborted(ConveyorError):
    """Another request of the session stands in the way; the same request may succeed after it."""

    retry_after = 0.02


class Superseded(Aborted):
    """Another server has had the session since its client last heard of it. `epoch` is what it has by now."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"epoch: another server has had the session since; its epoch is {epoch} by now")
        self.epoch = epoch


class ResourceExhausted(ConveyorError):
    """The server holds all that it may. `reason` is one word for the metrics."""

    retry_after = 1.0

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Unavailable(ConveyorError):
    """The server cannot serve this now; another replica, or this one later, may."""

    retry_after = 1.0


class FailedPrecondition(ConveyorError):
    """The model or the session is not of a kind that can do this."""


class DeadlineExceeded(ConveyorError):
    """The deadline passed before the steps ran; nothing was consumed."""


class Unimplemented(ConveyorError):
    """The call, or something that it asks for, is not served here."""


class RunFailed(ConveyorError):
    """The model's run failed; nothing was consumed and the session can be stepped again."""

    def __init__(self, error_id: str) -> None:
        super().__init__(
            f"internal error {error_id}: the model's run failed, the server's log has why under this id; "
            "the session is as it was before it"
        )

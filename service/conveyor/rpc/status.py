"""The one table from failures to gRPC status codes, and the three ways in which a client is told of one."""

from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode
from grpc.aio import ServicerContext

from conveyor import errors
from conveyor.rpc.durations import duration_message
from conveyor.telemetry.logs import report
from conveyor.v1 import step_pb2

Context = ServicerContext[Any, Any]

CODES: dict[type[errors.ConveyorError], StatusCode] = {
    errors.InvalidArgument: StatusCode.INVALID_ARGUMENT,
    errors.NotFound: StatusCode.NOT_FOUND,
    errors.AlreadyExists: StatusCode.ALREADY_EXISTS,
    errors.WrongPosition: StatusCode.OUT_OF_RANGE,
    errors.Aborted: StatusCode.ABORTED,
    errors.Superseded: StatusCode.ABORTED,
    errors.ResourceExhausted: StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: StatusCode.UNAVAILABLE,
    errors.FailedPrecondition: StatusCode.FAILED_PRECONDITION,
    errors.DeadlineExceeded: StatusCode.DEADLINE_EXCEEDED,
    errors.Unimplemented: StatusCode.UNIMPLEMENTED,
    errors.RunFailed: StatusCode.INTERNAL,
}


def code_of(error: Exception) -> StatusCode:
    """The status code of a failure; INTERNAL for one that nobody foresaw."""
    return next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), StatusCode.INTERNAL)


def message_of(error: Exception) -> str:
    """What a client may read of a failure. One that nobody foresaw goes to the log, and its id to the client."""
    if isinstance(error, errors.ConveyorError):
        return _short(error.message, 500)
    return f"internal error {report(error)}: the server's log has it under this id"


def fill_error(message: step_pb2.Error, error: Exception) -> None:
    """Tells of a chunk's failure in a stream's result."""
    message.code = code_of(error).value[0]
    message.message = message_of(error)
    if isinstance(error, errors.InvalidArgument):
        message.field = _short(error.field, 200)
    if isinstance(error, errors.WrongPosition):
        message.position = error.position
    if isinstance(error, errors.Superseded):
        message.epoch = error.epoch
    if (delay := _retry_after(error)) is not None:
        message.retry_delay.CopyFrom(duration_message(delay))


def end_call(context: Context, error: Exception) -> None:
    """Ends a call with the failure's status.

    The details are in the trailing metadata twice: as the rich status that generated clients of most languages know,
    and as plain text for clients that have nothing but gRPC.
    """
    code, message = code_of(error), message_of(error)
    context.set_code(code)
    context.set_details(message)
    context.set_trailing_metadata(_trailers(error, code, message))


def _trailers(error: Exception, code: StatusCode, message: str) -> tuple[tuple[str, str | bytes], ...]:
    trailers: list[tuple[str, str | bytes]] = []
    details = []
    if isinstance(error, errors.InvalidArgument):
        field = _short(error.field, 200)
        details.append(BadRequest(field_violations=[BadRequest.FieldViolation(field=field, description=message)]))
        trailers.append(("conveyor-field", _ascii(field)))
    if isinstance(error, errors.WrongPosition):
        trailers.append(("conveyor-position", str(error.position)))
    if isinstance(error, errors.Superseded):
        trailers.append(("conveyor-epoch", str(error.epoch)))
    if (delay := _retry_after(error)) is not None:
        details.append(RetryInfo(retry_delay=duration_message(delay)))
        trailers.append(("grpc-retry-pushback-ms", str(round(delay * 1000))))
    if details:
        status = Status(code=code.value[0], message=message, details=[_packed(detail) for detail in details])
        trailers.append(("grpc-status-details-bin", status.SerializeToString()))
    return tuple(trailers)


def _retry_after(error: Exception) -> float | None:
    return error.retry_after if isinstance(error, errors.ConveyorError) else None


def _packed(detail: BadRequest | RetryInfo) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


def _short(text: str, length: int) -> str:
    # Names that a client chose may be in it, and clients refuse trailing metadata beyond 8 KiB.
    return text if len(text) <= length else f"{text[:length]}..."


def _ascii(text: str) -> str:
    # A field's path can carry a name that the client chose, and metadata must be printable ASCII.
    return "".join(character if " " <= character <= "~" else "?" for character in text)

"""The table from domain errors to gRPC codes."""

import inspect

import grpc
import pytest

from conveyor import errors
from conveyor.rpc.status import CODES, code_of, fill_error
from conveyor.v1 import step_pb2

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind is not errors.ConveyorError]


@pytest.mark.parametrize("kind", KINDS)
def test_every_domain_error_has_a_code(kind: type[errors.ConveyorError]) -> None:
    """A new error class cannot be forgotten in the table."""
    assert kind in CODES


def test_a_subclass_has_its_parents_code() -> None:
    """What an engine refines, clients need not know."""

    class Gone(errors.NotFound):
        pass

    assert code_of(Gone("gone")) is grpc.StatusCode.NOT_FOUND


def test_a_streams_error_has_the_details() -> None:
    """Field, position and delay are fields of the message."""
    field, position, delay = step_pb2.Error(), step_pb2.Error(), step_pb2.Error()
    fill_error(field, errors.InvalidArgument("tokens[3]", "is odd"))
    fill_error(position, errors.WrongPosition(3, 5))
    fill_error(delay, errors.ResourceExhausted("queue", "full"))

    assert (field.code, field.field, field.message) == (3, "tokens[3]", "tokens[3]: is odd")
    assert (position.code, position.position, position.HasField("retry_delay")) == (11, 5, False)
    assert (delay.code, delay.retry_delay.seconds, delay.HasField("position")) == (8, 1, False)


def test_the_unforeseen_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    """The client reads an id, and the log has the exception under it."""
    error = step_pb2.Error()
    fill_error(error, RuntimeError("the secret"))

    assert error.code == 13
    assert "secret" not in error.message
    record = caplog.records[-1]
    assert record.error_id in error.message
    assert "the secret" in caplog.text


def test_long_names_are_cut() -> None:
    """A name that a client made too long does not come back whole."""
    error = step_pb2.Error()
    fill_error(error, errors.InvalidArgument("x" * 100_000, "is odd"))

    assert len(error.message) < 1000
    assert len(error.field) < 1000

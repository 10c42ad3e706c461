"""Protocol messages of what a caller gave."""

from typing import Any, TypeVar

from google.protobuf.message import Message

from conveyor.client.errors import InvalidArgument

AnyMessage = TypeVar("AnyMessage", bound=Message)


def message_from(kind: type[AnyMessage], path: str = "", /, **fields: Any) -> AnyMessage:
    """A message of these fields; None leaves one unset. `path` leads to the message from the request that holds it.

    Raises:
        InvalidArgument: a field cannot hold its value.
    """
    try:
        return kind(**fields)
    except (TypeError, ValueError):
        for name, value in fields.items():  # protobuf does not always say which it was
            _check(kind, path, name, value)
        raise


def _check(kind: type[Message], path: str, name: str, value: Any) -> None:
    try:
        kind(**{name: value})
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"{path}{name}: {error}", field=f"{path}{name}") from None

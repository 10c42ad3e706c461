"""A session that is being opened, and the call that does it."""

from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from conveyor.client.connection import Connection
from conveyor.client.errors import AlreadyExists
from conveyor.v1 import session_pb2

if TYPE_CHECKING:
    from conveyor.client.session import Session


class Opening:
    """A session that is being opened: `session = await ...` or `async with ... as session`."""

    def __init__(self, opening: "Coroutine[Any, Any, Session]") -> None:
        self._opening = opening
        self._session: Session | None = None

    def __await__(self) -> "Generator[Any, None, Session]":
        session: Session = yield from self._opening.__await__()
        return session

    async def __aenter__(self) -> "Session":
        self._session = await self._opening
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.__aexit__(kind, error, trace)


async def resumed(
    connection: Connection, request: session_pb2.ResumeSessionRequest, shard: str, seconds: float | None = None
) -> session_pb2.Session:
    """Takes a session up. `seconds` is how long that may take, by default as long as any call.

    Raises:
        NotFound: it is unknown, expired or closed.
    """
    response: session_pb2.ResumeSessionResponse = await connection.call(
        connection.stub.ResumeSession, request, seconds, shard
    )
    return response.session


async def opened(
    connection: Connection,
    call: Callable[[], Coroutine[Any, Any, Any]],
    session_id: str,
    shard: str,
    *,
    is_minted: bool,
) -> session_pb2.Session:
    """The session that `call` opens under an id.

    Raises:
        AlreadyExists: the id is in use, and was not minted for this.
    """
    try:
        session: session_pb2.Session = (await call()).session
    except AlreadyExists:
        if not is_minted:
            raise
        # A retry found what the attempt before it had opened.
        return await resumed(connection, session_pb2.ResumeSessionRequest(session_id=session_id), shard)
    return session

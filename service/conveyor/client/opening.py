"""A session that is being opened, and the call that does it."""

from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from conveyor.client.connection import Connection
from conveyor.client.errors import AlreadyExists, DeadlineExceeded, NotFound, Unavailable
from conveyor.client.shards import NUM_DETOURS, detours
from conveyor.v1 import session_pb2

if TYPE_CHECKING:
    from conveyor.client.session import Session

_DETOUR_SECONDS = 1.0


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
    connection: Connection,
    request: session_pb2.ResumeSessionRequest,
    shard: str,
    seconds: float | None = None,
    num_detours: int = NUM_DETOURS,
) -> tuple[session_pb2.Session, str]:
    """Takes a session up, and tells which value of the shards' header led to it.

    One that is not stored is known to one server alone. Since it came there, servers may have come or gone and its
    shard may lead to another: so `num_detours` others are tried. `seconds` is how long the first may take, by default
    as any call.

    Raises:
        NotFound: it is unknown, expired or closed.
    """
    resume = connection.stub.ResumeSession
    try:
        return (await connection.call(resume, request, seconds, shard)).session, shard
    except NotFound:
        if not request.epoch:
            for way in detours(shard, num_detours):
                with suppress(NotFound, Unavailable, DeadlineExceeded):
                    return (await connection.call(resume, request, _DETOUR_SECONDS, way)).session, way
        raise


async def opened(
    connection: Connection,
    call: Callable[[], Coroutine[Any, Any, Any]],
    session_id: str,
    shard: str,
    *,
    is_minted: bool,
) -> tuple[session_pb2.Session, str]:
    """The session that `call` opens under an id.

    Raises:
        AlreadyExists: the id is in use, and was not minted for this.
    """
    try:
        return (await call()).session, shard
    except AlreadyExists:
        if not is_minted:
            raise
        # A retry found what the attempt before it had opened.
        return await resumed(connection, session_pb2.ResumeSessionRequest(session_id=session_id), shard)

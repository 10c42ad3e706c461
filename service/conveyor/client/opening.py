"""A session that is being opened, and the call that does it."""

import asyncio
from collections.abc import Callable, Coroutine, Generator, Sequence
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

from conveyor.client.backoff import Backoff
from conveyor.client.connection import Connection, pause
from conveyor.client.errors import AlreadyExists, ClientError, DeadlineExceeded, NotFound, Unavailable
from conveyor.client.patience import Patience
from conveyor.client.shards import NUM_DETOURS, detours
from conveyor.v1 import session_pb2

if TYPE_CHECKING:
    from conveyor.client.session import Session

FEW_DETOURS = 4  # that are tried at once
_DETOUR_SECONDS = 1.0

Found = tuple[session_pb2.Session, str]  # and the value of the shards' header that led to it


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
) -> Found:
    """Takes a session up, and tells which value of the shards' header led to it.

    One that is not stored is known to one server alone. Since it came there, servers may have come or gone and its
    shard may lead to another: so `num_detours` others are tried. A server that does not say whether it has the session
    is asked again. `seconds` is how long all of it may take, by default as any call.

    Raises:
        NotFound: it is unknown, expired or closed.
        Unavailable: not all servers have said so.
    """
    deadline, backoff, patience = monotonic() + connection.seconds(seconds), Backoff(), Patience(_DETOUR_SECONDS)
    while True:
        try:
            return await _along(connection, request, deadline - monotonic(), shard)
        except NotFound:
            if request.epoch:
                raise
            ways = detours(shard, num_detours)
            try:
                async with connection.searching(deadline):
                    found = await _search(connection, request, patience.limit(), ways)
                if found:
                    return found
            except Unavailable as error:
                patience.lose()
                await pause(error, backoff, deadline)
            else:
                raise


async def _search(
    connection: Connection, request: session_pb2.ResumeSessionRequest, seconds: float, ways: list[str]
) -> Found | None:
    """Asks for a session along some ways, a few at once; None if it is on none of them.

    Raises:
        Unavailable: a server has not said whether it has the session, and none has said that it does.
    """
    for first in range(0, len(ways), FEW_DETOURS):
        few = ways[first : first + FEW_DETOURS]
        asked = [asyncio.ensure_future(_along(connection, request, seconds, way)) for way in few]
        try:
            if found := await _first_found(asked):
                return found
        finally:
            for each in asked:
                each.cancel()
            await asyncio.gather(*asked, return_exceptions=True)  # or what nobody awaits is told in the log
    return None


async def _first_found(asked: "Sequence[asyncio.Future[Found]]") -> Found | None:
    silence: ClientError | None = None
    for answer in asyncio.as_completed(asked):
        try:
            return await answer
        except NotFound:
            continue
        except ClientError as error:
            if not error.is_retriable and not isinstance(error, DeadlineExceeded):
                raise
            silence = error
    if silence is not None:
        raise Unavailable(f"not every server says whether it has the session: {silence}")
    return None


async def _along(connection: Connection, request: session_pb2.ResumeSessionRequest, seconds: float, way: str) -> Found:
    """Asks the server to which a value of the shards' header leads."""
    return (await connection.call(connection.stub.ResumeSession, request, seconds, way)).session, way


async def opened(
    connection: Connection,
    call: Callable[[], Coroutine[Any, Any, Any]],
    session_id: str,
    shard: str,
    *,
    is_minted: bool,
) -> Found:
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

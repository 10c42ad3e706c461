"""A connection to one server: its models, and sessions that share one stream."""

import asyncio
from collections.abc import Mapping
from secrets import token_hex
from types import TracebackType
from typing import Any, Self

from google.protobuf.duration_pb2 import Duration

from conveyor.client.connection import Connection
from conveyor.client.errors import AlreadyExists, InvalidArgument
from conveyor.client.inputs import tensor_from
from conveyor.client.lane import Lane
from conveyor.client.message import message_from
from conveyor.client.repository import Repository
from conveyor.client.results import Model, SessionInfo, model_from, session_from
from conveyor.client.session import Opening, Session
from conveyor.client.stream import Stream
from conveyor.v1 import model_pb2, session_pb2

_PAGE_SIZE = 1000
_LONGEST_DURATION = 315_576_000_000  # seconds; the protocol's Duration holds no more


class Client:
    """One server. Make it inside a running event loop and use it there; `async with` closes it.

    `timeout` is how many seconds a step or another call may take, retries included, unless the call says otherwise.
    """

    def __init__(self, address: str, timeout: float = 30.0) -> None:
        self._connection = Connection(address, timeout)
        self._stream = Stream(self._connection.stub.Stream)
        self._models: dict[tuple[str, int], asyncio.Task[Model]] = {}

    @property
    def address(self) -> str:
        """Where the server is."""
        return self._connection.address

    @property
    def repository(self) -> Repository:
        """What the server has loaded, to be seen and changed by its operator."""
        return Repository(self._connection)

    async def models(self) -> list[Model]:
        """The loaded models, by name and version, without vocabularies."""
        response = await self._connection.call(self._connection.stub.ListModels, model_pb2.ListModelsRequest())
        return [model_from(model) for model in response.models]

    async def model(self, name: str = "", version: int = 0) -> Model:
        """One model with its vocabulary. An empty name is allowed while the server serves only one; 0 is the newest.

        Raises:
            NotFound: no such model or version is loaded.
        """
        request = model_pb2.GetModelRequest(name=name, version=version)
        response = await self._connection.call(self._connection.stub.GetModel, request)
        return model_from(response.model)

    def open(
        self,
        model: str = "",
        *,
        version: int = 0,
        alias: str = "",
        session_id: str | None = None,
        seed: int | None = None,
        idle_timeout: float | None = None,
        max_lifetime: float | None = None,
        contexts: Mapping[str, Any] | None = None,
    ) -> Opening:
        """Opens a session: `await` it, or `async with` it to have it closed at the end. Times are seconds.

        With neither a version nor an alias the server chooses the version, as its operator has told it to.

        Raises:
            InvalidArgument: a field cannot be what is given.

        Raises, when awaited:
            NotFound: no such model, version or alias.
            AlreadyExists: the session id is in use.
            ResourceExhausted: the server holds as many sessions as it may.
        """
        request = message_from(
            session_pb2.OpenSessionRequest,
            model_name=model,
            model_version=version,
            model_alias=alias,
            session_id=session_id or "",
            seed=seed,
            idle_timeout=_duration("idle_timeout", idle_timeout),
            max_lifetime=_duration("max_lifetime", max_lifetime),
            contexts={name: tensor_from(value, "float32").to_message() for name, value in (contexts or {}).items()},
        )
        return Opening(self._open(request))

    async def session(self, session_id: str) -> Session:
        """Attaches to a session that is open, at its position.

        Raises:
            NotFound: it is unknown, expired or closed.
        """
        request = session_pb2.GetSessionRequest(session_id=session_id)
        response = await self._connection.call(self._connection.stub.GetSession, request)
        lane = self._stream.lane(session_id, response.session.position)
        return await self._session(response.session, lane)

    async def sessions(self, model: str = "") -> list[SessionInfo]:
        """All open sessions, of one model or of all, in the order in which they were opened."""
        sessions: list[SessionInfo] = []
        request = session_pb2.ListSessionsRequest(page_size=_PAGE_SIZE, model_name=model)
        while True:
            page = await self._connection.call(self._connection.stub.ListSessions, request)
            sessions += map(session_from, page.sessions)
            if not page.next_page_token:
                return sessions
            request.page_token = page.next_page_token

    async def close(self) -> None:
        """Closes the connection. Sessions stay open on the server until closed there or idle for too long."""
        await self._stream.close()
        await self._connection.close()

    async def _open(self, request: session_pb2.OpenSessionRequest) -> Session:
        is_minted = not request.session_id
        if is_minted:  # here and not by the server, so that a retry cannot open a second session
            request.session_id = token_hex(16)
        try:
            response = await self._connection.call(self._connection.stub.OpenSession, request)
        except AlreadyExists:
            if not is_minted:
                raise
            return await self.session(request.session_id)
        lane = self._stream.new_lane(request.session_id, response.session.position)
        return await self._session(response.session, lane)

    async def _session(self, session: session_pb2.Session, lane: Lane) -> Session:
        return Session(self._connection, self._stream, lane, await self._model_of(session))

    async def _model_of(self, session: session_pb2.Session) -> Model:
        key = (session.model_name, session.model_version)
        if key not in self._models or _has_failed(self._models[key]):
            self._models[key] = asyncio.ensure_future(self.model(*key))
        return await asyncio.shield(self._models[key])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def connect(address: str, *, timeout: float = 30.0) -> Client:
    """A client of the server at `host:port`, for `async with`. Nothing is sent before the first call."""
    return Client(address, timeout)


def _has_failed(task: "asyncio.Task[Model]") -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def _duration(field: str, seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    if not 0 < seconds <= _LONGEST_DURATION:
        raise InvalidArgument(
            f"{field}: must be above 0 s and at most {_LONGEST_DURATION} s, got {seconds} s", field=field
        )
    return Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))

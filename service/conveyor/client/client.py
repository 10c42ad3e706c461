"""A connection to a server, or to several behind a balancer: their models, and sessions that share streams."""

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from conveyor.client.connection import Connection
from conveyor.client.durability import Durability, durability_message, duration_message
from conveyor.client.inputs import Inputs, chunk_from, contexts_from, outputs_from
from conveyor.client.lane import Lane
from conveyor.client.message import message_from
from conveyor.client.opening import Opening, opened, resumed
from conveyor.client.repository import Repository
from conveyor.client.results import Model, SessionInfo, StepResult, model_from, session_from
from conveyor.client.session import Session
from conveyor.client.streams import Streams
from conveyor.v1 import model_pb2, session_pb2, step_pb2

_PAGE_SIZE = 1000
REPLAY_BYTES = 1 << 20


class Client:
    """One server, or several behind a balancer. Make it inside a running event loop and use it there.

    `async with` closes it. `timeout` is how many seconds a step or another call may take, retries included, unless the
    call says otherwise. `replay_bytes` bounds what each stored session keeps of its inputs, to send them again if its
    server is lost: of more the oldest are forgotten.

    All sessions share one stream, which leads to one server. With more `shards` each has a stream of its own, and a
    session belongs to the one that its id says, as the header `x-conveyor-shard` of its calls tells a balancer.

    Raises:
        InvalidArgument: `timeout` is not a number, or `shards` is below 1.
    """

    def __init__(
        self, address: str, timeout: float = 30.0, *, shards: int = 1, replay_bytes: int = REPLAY_BYTES
    ) -> None:
        self._connection = Connection(address, timeout, shards)
        self._streams = Streams(self._connection, replay_bytes)
        self._models: dict[tuple[str, int], asyncio.Task[Model]] = {}

    @property
    def address(self) -> str:
        """Where the server is."""
        return self._connection.address

    @property
    def fenced_answers(self) -> int:
        """Number of answers that were dropped because the server that gave them had lost the session."""
        return self._connection.fenced_answers

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
        durability: Durability | str | None = None,
    ) -> Opening:
        """Opens a session: `await` it, or `async with` it to have it closed at the end. Times are seconds.

        With neither a version nor an alias the server chooses the version, as its operator has told it to.
        `durability` is `none`, `async`, `sync` or a `Durability`; None takes the server's default.

        Raises:
            InvalidArgument: a field cannot be what is given.

        Raises, when awaited:
            NotFound: no such model, version or alias.
            AlreadyExists: the session id is in use.
            FailedPrecondition: durability that the server has no store for.
            ResourceExhausted: the server holds as many sessions as it may.
        """
        request = message_from(
            session_pb2.OpenSessionRequest,
            model_name=model,
            model_version=version,
            model_alias=alias,
            # Minted here and not by the server, so that a retry cannot open a second session.
            session_id=session_id or self._connection.shards.mint(),
            seed=seed,
            idle_timeout=duration_message("idle_timeout", idle_timeout),
            max_lifetime=duration_message("max_lifetime", max_lifetime),
            contexts=contexts_from(contexts),
            durability=durability_message(durability),
        )
        return Opening(self._open(self._connection.stub.OpenSession, request, is_minted=not session_id))

    def import_session(
        self,
        checkpoint: bytes,
        *,
        session_id: str | None = None,
        seed: int | None = None,
        idle_timeout: float | None = None,
        max_lifetime: float | None = None,
        durability: Durability | str | None = None,
    ) -> Opening:
        """Opens a session from what `Session.export` or `step_stateless` gave. `seed` None takes the checkpoint's.

        Raises:
            InvalidArgument: a field cannot be what is given; when awaited: the bytes are no checkpoint.

        Raises, when awaited:
            FailedPrecondition: the checkpoint was changed, sealed with another key, or is another model's.
            AlreadyExists: the session id is in use.
            ResourceExhausted: the server holds as many sessions as it may.
        """
        request = message_from(
            session_pb2.ImportSessionRequest,
            checkpoint=checkpoint,
            session_id=session_id or self._connection.shards.mint(),
            seed=seed,
            idle_timeout=duration_message("idle_timeout", idle_timeout),
            max_lifetime=duration_message("max_lifetime", max_lifetime),
            durability=durability_message(durability),
        )
        return Opening(self._open(self._connection.stub.ImportSession, request, is_minted=not session_id))

    async def session(self, session_id: str) -> Session:
        """Attaches to a session that is open, or in the store, at its position.

        Raises:
            NotFound: it is unknown, expired or closed.
        """
        request = session_pb2.ResumeSessionRequest(session_id=session_id)
        lane = self._streams.known(session_id)
        # Without chunks in flight nothing is missed, and another client may have led the session on since.
        if lane is not None and lane.chunks and not lane.fate.is_ended:
            request.received_position, request.epoch = lane.position, lane.epoch
        shard = self._connection.shards.of(session_id) if lane is None else lane.shard
        session, shard = await resumed(self._connection, request, shard)
        return await self._session(session, self._streams.lane(session, shard))

    async def sessions(self, model: str = "", *, stored: bool = False) -> list[SessionInfo]:
        """All open sessions, of one model or of all, in the order in which they were opened.

        With `stored` those of the store, in any order, instead of those that the server holds.
        """
        sessions: list[SessionInfo] = []
        request = session_pb2.ListSessionsRequest(page_size=_PAGE_SIZE, model_name=model, stored=stored)
        while True:
            page = await self._connection.call(self._connection.stub.ListSessions, request)
            sessions += map(session_from, page.sessions)
            if not page.next_page_token:
                return sessions
            request.page_token = page.next_page_token

    async def step_stateless(
        self,
        data: Inputs,
        model: str = "",
        *,
        checkpoint: bytes | None = None,
        version: int = 0,
        seed: int | None = None,
        contexts: Mapping[str, Any] | None = None,
        outputs: Sequence[str] = (),
        top_k: int = 0,
        last_only: bool = False,
    ) -> tuple[StepResult, bytes]:
        """Steps without a session: from a checkpoint, or from the model's beginning. Nothing stays on the server.

        Gives the answer, as `Session.step` does, and the sealed state after it. `seed` and `contexts` count at the
        beginning alone; `model` and `version` tell then which it is, and always how to read `data`.

        Raises:
            FailedPrecondition: the checkpoint was changed, sealed with another key, or is another model's.
            ClientError: as for `open` and `Session.step`.
        """
        # Which is the newest may change: a version that is named is asked for once.
        known = await (self._model(model, version) if version else self.model(model))
        chunk, *_ = chunk_from("", data, known)
        if (wanted := outputs_from(tuple(outputs), top_k, last_only)) is not None:
            chunk.outputs.CopyFrom(wanted)
        request = step_pb2.StepStatelessRequest(chunk=chunk)
        if checkpoint is None:
            opening = message_from(
                session_pb2.OpenSessionRequest,
                model_name=known.name,
                model_version=known.version,
                seed=seed,
                contexts=contexts_from(contexts),
            )
            request.open.CopyFrom(opening)
        else:
            request.checkpoint = checkpoint
        response = await self._connection.call(self._connection.stub.StepStateless, request)
        return StepResult(response.result, known.vocabulary), response.checkpoint

    async def close(self) -> None:
        """Closes the connection. Sessions stay open on the server until closed there or idle for too long."""
        await self._streams.close()
        await self._connection.close()

    async def _open(self, method: Any, request: Any, *, is_minted: bool) -> Session:
        connection, session_id = self._connection, request.session_id
        shard = connection.shards.of(session_id)
        session, shard = await opened(
            connection,
            lambda: connection.call(method, request, shard=shard),
            session_id,
            shard,
            is_minted=is_minted,
        )
        return await self._session(session, self._streams.new_lane(session, shard))

    async def _session(self, session: session_pb2.Session, lane: Lane) -> Session:
        model = await self._model(session.model_name, session.model_version)
        return Session(self._connection, self._streams, lane, model)

    async def _model(self, name: str, version: int) -> Model:
        key = (name, version)
        if key not in self._models or _has_failed(self._models[key]):
            self._models[key] = asyncio.ensure_future(self.model(*key))
        return await asyncio.shield(self._models[key])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def connect(address: str, *, timeout: float = 30.0, shards: int = 1, replay_bytes: int = REPLAY_BYTES) -> Client:
    """A client of the server at `host:port`, for `async with`: see `Client`. Nothing is sent before the first call."""
    return Client(address, timeout, shards=shards, replay_bytes=replay_bytes)


def _has_failed(task: "asyncio.Task[Model]") -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)

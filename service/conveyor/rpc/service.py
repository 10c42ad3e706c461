"""`conveyor.v1.SequenceService`: convert, call the engine, convert."""

# ruff: noqa: N802 - the calls have the names that the protos give them

import heapq
from collections.abc import Iterable
from itertools import islice
from math import isfinite, nan

from conveyor.engine.engine import Engine
from conveyor.engine.engines import Engines
from conveyor.engine.work import SessionView
from conveyor.errors import InvalidArgument, Unavailable
from conveyor.repository import Repository
from conveyor.rpc import generation, stateless, step
from conveyor.rpc.models import Models
from conveyor.rpc.sessions import fork_options, open_options, read_contexts, session_message
from conveyor.rpc.status import Context
from conveyor.rpc.stream import Stream
from conveyor.telemetry.metrics import Metrics
from conveyor.v1 import generate_pb2, model_pb2, sequence_service_pb2_grpc, session_pb2, step_pb2

Positioned = (
    session_pb2.ForkSessionRequest | session_pb2.ExportSessionRequest | generate_pb2.GenerateRequest | step_pb2.Chunk
)

DEFAULT_PAGE = 100
MAX_PAGE = 1000


class SequenceServicer(sequence_service_pb2_grpc.SequenceServiceServicer):
    """Raises domain errors; the interceptor makes statuses of them."""

    def __init__(self, engines: Engines, repository: Repository, metrics: Metrics, max_stream_steps: int) -> None:
        self._engines = engines
        self._models = Models(engines, repository)
        self._metrics = metrics
        self._max_stream_steps = max_stream_steps
        self._streams: set[Stream] = set()

    def end_streams(self) -> None:
        """Ends every open stream with UNAVAILABLE, after what waits to be sent on it."""
        for stream in self._streams:
            stream.fail(Unavailable("the server is draining: go on elsewhere, or later"))

    async def ListModels(self, request: model_pb2.ListModelsRequest, context: Context) -> model_pb2.ListModelsResponse:
        return self._models.list()

    async def GetModel(self, request: model_pb2.GetModelRequest, context: Context) -> model_pb2.GetModelResponse:
        return self._models.get(request)

    async def LoadModel(self, request: model_pb2.LoadModelRequest, context: Context) -> model_pb2.LoadModelResponse:
        return await self._models.load(request)

    async def UnloadModel(
        self, request: model_pb2.UnloadModelRequest, context: Context
    ) -> model_pb2.UnloadModelResponse:
        return await self._models.unload(request)

    async def OpenSession(
        self, request: session_pb2.OpenSessionRequest, context: Context
    ) -> session_pb2.OpenSessionResponse:
        options, contexts = open_options(request, self._engines.durability), read_contexts(request)
        model = request.model_name, request.model_version
        view = await self._engines.open(*model, options, contexts, request.model_alias)
        return session_pb2.OpenSessionResponse(session=session_message(view))

    async def GetSession(
        self, request: session_pb2.GetSessionRequest, context: Context
    ) -> session_pb2.GetSessionResponse:
        view = await self._engines.view(request.session_id)
        return session_pb2.GetSessionResponse(session=session_message(view))

    async def ResumeSession(
        self, request: session_pb2.ResumeSessionRequest, context: Context
    ) -> session_pb2.ResumeSessionResponse:
        received = request.received_position if request.HasField("received_position") else None
        view = await self._engines.resume(request.session_id, received, request.epoch)
        return session_pb2.ResumeSessionResponse(session=session_message(view))

    async def ForkSession(
        self, request: session_pb2.ForkSessionRequest, context: Context
    ) -> session_pb2.ForkSessionResponse:
        options = fork_options(request, self._engines.durability)
        view = await self._engines.fork(request.session_id, _position(request), options)
        return session_pb2.ForkSessionResponse(session=session_message(view))

    async def ExportSession(
        self, request: session_pb2.ExportSessionRequest, context: Context
    ) -> session_pb2.ExportSessionResponse:
        checkpoint, position = await self._engines.export(request.session_id, _position(request))
        return session_pb2.ExportSessionResponse(checkpoint=checkpoint, position=position)

    async def ImportSession(
        self, request: session_pb2.ImportSessionRequest, context: Context
    ) -> session_pb2.ImportSessionResponse:
        options = open_options(request, self._engines.durability)
        view = await self._engines.import_(request.checkpoint, options)
        return session_pb2.ImportSessionResponse(session=session_message(view))

    async def ListSessions(
        self, request: session_pb2.ListSessionsRequest, context: Context
    ) -> session_pb2.ListSessionsResponse:
        if request.page_size < 0:
            raise InvalidArgument("page_size", f"must be at least 0, got {request.page_size}")
        size = min(request.page_size or DEFAULT_PAGE, MAX_PAGE)
        if request.stored:
            views, token = await self._engines.stored(size, request.page_token, request.model_name)
            return session_pb2.ListSessionsResponse(sessions=map(session_message, views), next_page_token=token)
        after, engines = _cursor(request.page_token), self._engines_of(request.model_name)
        # One more than the page tells whether there is another.
        found = heapq.merge(*(engine.list(size + 1, after) for engine in engines), key=_place)
        page = list(islice(found, size + 1))
        return session_pb2.ListSessionsResponse(
            sessions=map(session_message, page[:size]),
            next_page_token=_token(page[size - 1]) if len(page) > size else "",
            total_size=sum(engine.num_sessions for engine in engines),
        )

    def _engines_of(self, model_name: str) -> list[Engine]:
        engines = [engine for engine in self._engines.all() if model_name in ("", engine.name)]
        if not engines:
            self._engines.of_model(model_name)  # says which there are
        return engines

    async def CloseSession(
        self, request: session_pb2.CloseSessionRequest, context: Context
    ) -> session_pb2.CloseSessionResponse:
        position = await self._engines.close(request.session_id, request.epoch)
        return session_pb2.CloseSessionResponse(position=position)

    async def Step(self, request: step_pb2.StepRequest, context: Context) -> step_pb2.StepResponse:
        chunk = request.chunk
        is_doubtful = self._engines.asks_again(chunk.session_id, _position(chunk))
        engine = await self._engines.holding(
            chunk.session_id, step.received_of(chunk), chunk.epoch, is_doubtful=is_doubtful
        )
        response = step_pb2.StepResponse()
        await step.run(chunk, engine, context, response.result)
        return response

    async def StepStateless(
        self, request: step_pb2.StepStatelessRequest, context: Context
    ) -> step_pb2.StepStatelessResponse:
        return await stateless.run(request, self._engines, context)

    async def Stream(self, requests: Iterable[step_pb2.StreamRequest], context: Context) -> None:
        stream = Stream(self._engines, context, self._max_stream_steps)
        self._streams.add(stream)
        try:
            await stream.run()
        finally:
            self._streams.discard(stream)

    async def Generate(self, request: generate_pb2.GenerateRequest, context: Context) -> None:
        position = _position(request)
        is_doubtful = self._engines.asks_again(request.session_id, position)
        engine = await self._engines.holding(request.session_id, position, request.epoch, is_doubtful=is_doubtful)
        await generation.run(request, engine, context, self._metrics.of_model(engine.name, engine.version))


def _position(request: Positioned) -> int | None:
    return request.position if request.HasField("position") else None


def _place(view: SessionView) -> tuple[float, str]:
    return view.create_time, view.session_id


def _token(view: SessionView) -> str:
    return f"{view.create_time!r} {view.session_id}"


def _cursor(token: str) -> tuple[float, str] | None:
    """The place of the last session of the page before: it holds even if that session has been closed since."""
    if not token:
        return None
    time, _, session_id = token.partition(" ")
    try:
        create_time = float(time)
    except ValueError:
        create_time = nan
    if not isfinite(create_time):
        raise InvalidArgument("page_token", "is not one that this server gave")
    return create_time, session_id

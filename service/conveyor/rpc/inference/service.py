"""`inference.GRPCInferenceService`: convert, call the engine, convert."""

# ruff: noqa: N802 - the calls have the names that the protos give them

from collections.abc import Callable
from typing import Any, NoReturn

from conveyor import __version__
from conveyor.engine.engine import Engine
from conveyor.engine.engines import Engines
from conveyor.errors import NotFound, Unavailable, Unimplemented
from conveyor.inference import (
    infer_pb2,
    inference_service_pb2_grpc,
    model_pb2,
    repository_pb2,
    server_pb2,
    statistics_pb2,
)
from conveyor.repository import Repository
from conveyor.rpc.inference.describe import config_message, index_message, metadata_message
from conveyor.rpc.inference.infer import Inference
from conveyor.rpc.inference.request import read_version
from conveyor.rpc.inference.statistics import Statistics
from conveyor.rpc.inference.stream import InferStream
from conveyor.rpc.status import Context
from conveyor.rpc.step import deadline_of
from conveyor.telemetry.metrics import Metrics

EXTENSIONS = ("sequence", "model_configuration", "model_repository", "statistics")


class InferenceServicer(inference_service_pb2_grpc.GRPCInferenceServiceServicer):
    """Raises domain errors; the interceptor makes statuses of them. `is_ready` tells whether the server takes work."""

    def __init__(
        self, engines: Engines, repository: Repository, metrics: Metrics, is_ready: Callable[[], bool]
    ) -> None:
        self._engines = engines
        self._repository = repository
        self._is_ready = is_ready
        self._statistics = Statistics(metrics)
        self._inference = Inference(engines, self._statistics)
        self._streams: set[InferStream] = set()

    def end_streams(self) -> None:
        """Ends every open stream with UNAVAILABLE, after the answers to what was read of it."""
        for stream in self._streams:
            stream.fail(Unavailable("the server is draining: go on elsewhere, or later"))

    async def ServerLive(
        self, request: server_pb2.ServerLiveRequest, context: Context
    ) -> server_pb2.ServerLiveResponse:
        return server_pb2.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: server_pb2.ServerReadyRequest, context: Context
    ) -> server_pb2.ServerReadyResponse:
        return server_pb2.ServerReadyResponse(ready=self._is_ready())

    async def ModelReady(self, request: model_pb2.ModelReadyRequest, context: Context) -> model_pb2.ModelReadyResponse:
        try:
            self._engine_of(request)
        except NotFound:
            return model_pb2.ModelReadyResponse(ready=False)
        return model_pb2.ModelReadyResponse(ready=self._is_ready())

    async def ServerMetadata(
        self, request: server_pb2.ServerMetadataRequest, context: Context
    ) -> server_pb2.ServerMetadataResponse:
        return server_pb2.ServerMetadataResponse(name="conveyor", version=__version__, extensions=EXTENSIONS)

    async def ModelMetadata(
        self, request: model_pb2.ModelMetadataRequest, context: Context
    ) -> model_pb2.ModelMetadataResponse:
        engine = self._engine_of(request)
        versions = [other.version for other in self._engines.all() if other.name == engine.name]
        return metadata_message(engine, self._inference.layout_of(engine), versions)

    async def ModelConfig(
        self, request: model_pb2.ModelConfigRequest, context: Context
    ) -> model_pb2.ModelConfigResponse:
        engine = self._engine_of(request)
        return model_pb2.ModelConfigResponse(config=config_message(engine, self._inference.layout_of(engine)))

    async def ModelStatistics(
        self, request: statistics_pb2.ModelStatisticsRequest, context: Context
    ) -> statistics_pb2.ModelStatisticsResponse:
        engines = self._engines.all()
        if request.name:
            name, version = self._engine_of(request).name, read_version(request.version, "version")
            engines = [engine for engine in engines if engine.name == name and version in (0, engine.version)]
        return statistics_pb2.ModelStatisticsResponse(model_stats=map(self._statistics.message, engines))

    async def ModelInfer(self, request: infer_pb2.ModelInferRequest, context: Context) -> infer_pb2.ModelInferResponse:
        return await self._inference.answer(request, deadline_of(context))

    async def ModelStreamInfer(self, requests: Any, context: Context) -> None:
        stream = InferStream(self._inference, context)
        self._streams.add(stream)
        try:
            await stream.run()
        finally:
            self._streams.discard(stream)

    async def RepositoryIndex(
        self, request: repository_pb2.RepositoryIndexRequest, context: Context
    ) -> repository_pb2.RepositoryIndexResponse:
        _check_repository(request.repository_name)
        return index_message(self._engines, self._repository, only_ready=request.ready)

    async def RepositoryModelLoad(
        self, request: repository_pb2.RepositoryModelLoadRequest, context: Context
    ) -> repository_pb2.RepositoryModelLoadResponse:
        _check_repository(request.repository_name)
        if request.parameters:
            raise Unimplemented("parameters: a model is loaded as it lies in the server's folder")
        await self._repository.load(request.model_name)
        return repository_pb2.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: repository_pb2.RepositoryModelUnloadRequest, context: Context
    ) -> repository_pb2.RepositoryModelUnloadResponse:
        _check_repository(request.repository_name)
        await self._repository.unload(request.model_name)
        return repository_pb2.RepositoryModelUnloadResponse()

    async def _refuse_memory(self, request: Any, context: Context) -> NoReturn:
        raise Unimplemented("shared memory is not served: tensors travel in messages")

    SystemSharedMemoryStatus = SystemSharedMemoryRegister = SystemSharedMemoryUnregister = _refuse_memory
    CudaSharedMemoryStatus = CudaSharedMemoryRegister = CudaSharedMemoryUnregister = _refuse_memory

    async def TraceSetting(self, request: Any, context: Context) -> NoReturn:
        raise Unimplemented("traces are not served: there are metrics, and a log")

    async def LogSettings(self, request: Any, context: Context) -> NoReturn:
        raise Unimplemented("the log is set up when the server starts")

    def _engine_of(self, request: Any) -> Engine:
        """The engine that a request names by `name` and `version`."""
        return self._engines.of_model(request.name, read_version(request.version, "version"))


def _check_repository(name: str) -> None:
    if name:
        raise NotFound(f"repository_name: there is one repository, without a name; got {name[:100]!r}")

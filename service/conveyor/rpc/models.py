"""The calls that tell of the models, and that load and unload them."""

from conveyor.engine.engine import Engine
from conveyor.engine.engines import Engines
from conveyor.errors import InvalidArgument
from conveyor.repository import Repository
from conveyor.rpc import convert
from conveyor.rpc.durations import seconds_of
from conveyor.v1 import model_pb2


class Models:
    """The repository, and the engines that it has loaded, in the API's messages."""

    def __init__(self, engines: Engines, repository: Repository) -> None:
        self._engines = engines
        self._repository = repository

    def list(self) -> model_pb2.ListModelsResponse:
        """All that is loaded, and all that should be and is not."""
        problems = [
            model_pb2.ModelProblem(name=name, version=version, message=message)
            for (name, version), message in sorted(self._repository.problems.items())
        ]
        return model_pb2.ListModelsResponse(models=map(self._message, self._engines.all()), problems=problems)

    def get(self, request: model_pb2.GetModelRequest) -> model_pb2.GetModelResponse:
        """One model. Raises NotFound."""
        engine = self._engines.of_model(request.name, request.version)
        return model_pb2.GetModelResponse(model=self._message(engine, with_vocabulary=True))

    async def load(self, request: model_pb2.LoadModelRequest) -> model_pb2.LoadModelResponse:
        """Loads a model. Raises NotFound, FailedPrecondition."""
        engines = await self._repository.load(request.name)
        return model_pb2.LoadModelResponse(models=map(self._message, engines))

    async def unload(self, request: model_pb2.UnloadModelRequest) -> model_pb2.UnloadModelResponse:
        """Unloads a model, and waits until it is. Raises NotFound, InvalidArgument, Aborted."""
        seconds = seconds_of(request.timeout) if request.HasField("timeout") else None
        if seconds is not None and seconds < 0:
            raise InvalidArgument("timeout", f"must be at least 0 s, got {seconds} s")
        departures = await self._repository.unload(request.name, request.version, seconds)
        ended = [await departure.done() for departure in departures]
        return model_pb2.UnloadModelResponse(num_ended_sessions=sum(ended))

    def _message(self, engine: Engine, *, with_vocabulary: bool = False) -> model_pb2.Model:
        message = convert.model_message(engine, with_vocabulary)
        is_retired = self._engines.is_retired(engine)
        message.state = model_pb2.MODEL_STATE_RETIRED if is_retired else model_pb2.MODEL_STATE_READY
        message.num_sessions = engine.num_sessions
        for name, alias in sorted(self._engines.aliases_of(engine.name).items()):
            if alias.version == engine.version:
                message.aliases.add(name=name, percent=alias.percent)
        return message

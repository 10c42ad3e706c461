"""What a server serves of its folder of models, and the calls that change it."""

# ruff: noqa: ASYNC109 - a timeout spans retries, and is part of the request's meaning

from dataclasses import dataclass

from conveyor.client.connection import Connection
from conveyor.client.durability import to_duration
from conveyor.v1 import model_pb2


@dataclass(frozen=True, slots=True)
class Version:
    """A loaded version of a model. One that is not `is_open` is leaving: its sessions go on, and no more are opened.

    `aliases` has the percentage of each that leads to it.
    """

    name: str
    version: int
    fingerprint: str
    is_open: bool
    num_sessions: int
    aliases: dict[str, int]


@dataclass(frozen=True, slots=True)
class ModelProblem:
    """Why a version, or a model as a whole (version 0), is not served as its folder says."""

    name: str
    version: int
    message: str


class Repository:
    """The calls that an operator makes. Made by `Client.repository`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def contents(self) -> tuple[list[Version], list[ModelProblem]]:
        """What is loaded, by name and version, and what is wrong."""
        response = await self._connection.call(self._connection.stub.ListModels, model_pb2.ListModelsRequest())
        problems = [ModelProblem(each.name, each.version, each.message) for each in response.problems]
        return [_version(model) for model in response.models], problems

    async def load(self, name: str, timeout: float | None = None) -> list[Version]:
        """Brings a model to what its folder says now; returns its versions.

        Raises:
            NotFound: the folder has no such model. FailedPrecondition: it cannot be served so.
        """
        request = model_pb2.LoadModelRequest(name=name)
        response = await self._connection.call(self._connection.stub.LoadModel, request, timeout)
        return [_version(model) for model in response.models]

    async def unload(
        self, name: str, version: int = 0, *, wait: float | None = None, timeout: float | None = None
    ) -> int:
        """Unloads a version, 0 for all of a model's; returns how many sessions were ended for it.

        They may go on for `wait` seconds before, None for the server's `unload_timeout`.

        Raises:
            NotFound: it is not loaded. Aborted: it was loaded again meanwhile.
        """
        request = model_pb2.UnloadModelRequest(name=name, version=version)
        if wait is not None:
            request.timeout.CopyFrom(to_duration(wait))
        response = await self._connection.call(self._connection.stub.UnloadModel, request, timeout)
        num_ended: int = response.num_ended_sessions
        return num_ended


def _version(model: model_pb2.Model) -> Version:
    aliases = {alias.name: alias.percent for alias in model.aliases}
    is_open = model.state != model_pb2.MODEL_STATE_RETIRED
    return Version(model.name, model.version, model.fingerprint, is_open, model.num_sessions, aliases)

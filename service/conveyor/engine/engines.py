"""All loaded models: which engine a model name or a session id leads to."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from conveyor.engine.work import Array, OpenOptions, SessionView
from conveyor.errors import AlreadyExists, NotFound

if TYPE_CHECKING:
    from conveyor.engine.engine import Engine


class Engines:
    """The engines of one server, at most one for each model name and version."""

    def __init__(self, engines: Iterable["Engine"]) -> None:
        self._engines = sorted(engines, key=lambda engine: (engine.name, engine.version))
        self._by_version = {(engine.name, engine.version): engine for engine in self._engines}
        # Sorted by version, so that the newest of each name comes last and stays.
        self._newest = {engine.name: engine for engine in self._engines}
        self._only = self._engines[0] if len(self._engines) == 1 else None

    def all(self) -> list["Engine"]:
        """The engines, by name and version."""
        return list(self._engines)

    def of_model(self, name: str, version: int = 0) -> "Engine":
        """The engine of a model. Name "" is allowed while there is one model only; version 0 is the newest.

        Raises:
            NotFound: no such model or version is loaded.
        """
        name = name or self._only_name()
        if name not in self._newest:
            raise NotFound(f"no model is named {name!r}; loaded: {', '.join(self._newest) or 'none'}")
        if not version:
            return self._newest[name]
        if (name, version) not in self._by_version:
            versions = ", ".join(str(engine.version) for engine in self._engines if engine.name == name)
            raise NotFound(f"model {name} has no version {version}; loaded: {versions}")
        return self._by_version[name, version]

    def _only_name(self) -> str:
        if len(self._newest) != 1:
            raise NotFound(f"model_name: {len(self._newest)} models are loaded, so it must be given")
        return next(iter(self._newest))

    def of_session(self, session_id: str) -> "Engine":
        """The engine that holds a session.

        Raises:
            NotFound: no engine does.
        """
        if self._only is not None:
            return self._only  # which raises NotFound itself: the hot path looks an id up once
        for engine in self._engines:
            if session_id in engine:
                return engine
        raise NotFound(f"session {session_id!r} is unknown, expired or closed")

    async def open(
        self, model_name: str, version: int, options: OpenOptions, contexts: Mapping[str, Array]
    ) -> SessionView:
        """Opens a session; its id is unique over all models.

        Raises:
            NotFound: the model; AlreadyExists: the id; and whatever `Engine.start_of` and `Engine.open` raise.
        """
        engine = self.of_model(model_name, version)
        start = await engine.start_of(contexts)
        if options.session_id is not None and any(options.session_id in other for other in self._engines):
            raise AlreadyExists(f"session {options.session_id!r} is open")
        return engine.open(options, start)

"""Which engine a model name, a version, an alias or a session id leads to."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from conveyor.engine.aliases import STABLE, Alias, shared_version
from conveyor.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from conveyor.engine.engine import Engine


class Catalog:
    """The engines of one server, at most one for each model name and version; they come and go while it runs."""

    def __init__(self, engines: Iterable["Engine"] = ()) -> None:
        self._aliases: dict[str, Mapping[str, Alias]] = {}
        self._retired: set[Engine] = set()
        self._index(engines)

    def _index(self, engines: Iterable["Engine"]) -> None:
        self._engines = sorted(engines, key=lambda engine: (engine.name, engine.version))
        self._by_version = {(engine.name, engine.version): engine for engine in self._engines}
        # Sorted by version, so that the newest of each name comes last and stays.
        self._newest = {engine.name: engine for engine in self._engines if engine not in self._retired}
        self._only = self._engines[0] if len(self._engines) == 1 else None

    def add(self, engine: "Engine") -> None:
        """Adds an engine that has been started; no other has its name and version."""
        self._index([*self._engines, engine])

    def retire(self, engine: "Engine") -> None:
        """Opens no more sessions on an engine; those that it has go on."""
        self._retired.add(engine)
        self._index(self._engines)

    def reopen(self, engine: "Engine") -> None:
        """Opens sessions again on an engine that was retired."""
        self._retired.discard(engine)
        self._index(self._engines)

    def remove(self, engine: "Engine") -> None:
        """Forgets an engine, which has no sessions any more."""
        self._retired.discard(engine)
        self._index(other for other in self._engines if other is not engine)

    def is_retired(self, engine: "Engine") -> bool:
        """True if no session can be opened on it."""
        return engine in self._retired

    def is_open(self, name: str, version: int) -> bool:
        """True if sessions can be opened on this version."""
        engine = self.find(name, version)
        return engine is not None and engine not in self._retired

    @property
    def open_names(self) -> set[str]:
        """The models on which sessions can be opened."""
        return set(self._newest)

    def find(self, name: str, version: int) -> "Engine | None":
        """The engine of a version, retired or not."""
        return self._by_version.get((name, version))

    def set_aliases(self, name: str, aliases: Mapping[str, Alias]) -> None:
        """Names versions of a model."""
        self._aliases[name] = dict(aliases)

    def aliases_of(self, name: str) -> Mapping[str, Alias]:
        """The aliases of a model."""
        return self._aliases.get(name, {})

    def all(self) -> list["Engine"]:
        """The engines, by name and version."""
        return list(self._engines)

    def of_model(self, name: str, version: int = 0) -> "Engine":
        """The engine of a model. Name "" is allowed while there is one model only; version 0 is the newest.

        One that is retired is found by its version alone.

        Raises:
            NotFound: no such model or version is loaded.
        """
        name = name or self._only_name()
        if version and (engine := self._by_version.get((name, version))):
            return engine
        if name not in self._newest:
            raise NotFound(f"no model is named {name!r}; loaded: {', '.join(self._newest) or 'none'}")
        if not version:
            return self._newest[name]
        versions = ", ".join(str(engine.version) for engine in self._engines if engine.name == name)
        raise NotFound(f"model {name} has no version {version}; loaded: {versions}")

    def to_open(self, name: str, version: int, alias: str, session_id: str) -> "Engine":
        """The engine on which a session of this id is to be opened.

        Without version and alias it is that of the share in which the id falls, else of the alias `stable`, else the
        newest.

        Raises:
            InvalidArgument: both are given. NotFound: no such model, version or alias is loaded, or it is retired.
        """
        if version and alias:
            raise InvalidArgument("model_alias", "a version is given too")
        name = name or self._only_name()
        aliases = self.aliases_of(name)
        if alias and alias not in aliases:
            raise NotFound(f"model {name} has no alias {alias!r}; it has: {', '.join(aliases) or 'none'}")
        if alias:
            version = aliases[alias].version
        engine = self.of_model(name, version or shared_version(self._shares(name), name, session_id))
        if engine in self._retired:
            raise NotFound(f"model {name} version {engine.version} is being unloaded: no session can be opened on it")
        return engine

    def _shares(self, name: str) -> dict[str, Alias]:
        # A canary that is gone harms nobody. But nobody is put on a canary because the stable version is gone.
        return {
            alias: each
            for alias, each in self.aliases_of(name).items()
            if alias == STABLE or self.find(name, each.version) not in (None, *self._retired)
        }

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

    def is_here(self, session_id: str) -> bool:
        """True if an engine holds the session."""
        return any(session_id in engine for engine in self._engines)

"""The models that a server serves: brought to what their folder says, one change at a time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from conveyor.engine.aliases import Alias, moved
from conveyor.engine.engine import Engine
from conveyor.engine.engines import Engines
from conveyor.errors import FailedPrecondition, NotFound, Unavailable
from conveyor.graph.errors import ModelError
from conveyor.repository.changes import Changes
from conveyor.repository.departure import Departure
from conveyor.repository.folder import Entry, Mark, ModelFolder, read_folder
from conveyor.repository.loader import Loader
from conveyor.repository.model_settings import ModelSettings

log = logging.getLogger("conveyor.repository")

Key = tuple[str, int]


class Repository:
    """Loads and unloads versions. One that is not wanted any more leaves when all that is wanted has been loaded.

    `unload_seconds` is how long sessions may go on, on a version that leaves; `drain_seconds`, how long they may then
    take to finish. `problems` has a sentence for each version, or model (version 0), that cannot be served as it
    should. `changed` is called when models have come or gone.
    """

    def __init__(
        self, path: Path, engines: Engines, loader: Loader, unload_seconds: float, drain_seconds: float
    ) -> None:
        self._path = path
        self._engines = engines
        self._loader = loader
        self._unload_seconds, self._drain_seconds = unload_seconds, drain_seconds
        self.problems: dict[Key, str] = {}
        self.changed: Callable[[], Awaitable[None]] | None = None
        self._lock = asyncio.Lock()
        self._departures: dict[Key, Departure] = {}
        self._marks: dict[Key, Mark] = {}  # of the loaded versions' files, as they were loaded
        self._unloaded: set[Key] = set()  # at somebody's wish, until the model is loaded at somebody's wish
        self._past: set[Key] = set()  # their time is over: a stored session does not bring them back
        self._changes = Changes()
        self._polling: asyncio.Task[None] | None = None
        self._loading: set[asyncio.Task[None]] = set()
        self._is_stopped = False
        engines.bring = self._bring_back

    @property
    def names(self) -> set[str]:
        """The models that are loaded, or should be."""
        return {engine.name for engine in self._engines.all()} | {name for name, _ in self.problems}

    async def start(self, poll_seconds: float) -> None:
        """Loads what is wanted, and looks for changes every `poll_seconds` from then on, or never if that is 0.

        Raises:
            ModelError: there is nothing that can be served; with the problem of each model.
        """
        for name, folder in (await asyncio.to_thread(read_folder, self._path)).items():
            await self._apply(name, folder)
        if not self._engines.all():
            raise ModelError("; ".join(self.problems.values()))
        if poll_seconds:
            self._polling = asyncio.get_running_loop().create_task(self._poll_forever(poll_seconds))

    async def load(self, name: str) -> list[Engine]:
        """Brings a model to what its folder says now; returns its engines. Goes on to its end if it is cancelled.

        Raises:
            NotFound: the folder has no such model. FailedPrecondition: it cannot be served so; what is loaded stays.
            Unavailable: the server is draining.
        """
        await self._to_the_end(self._load(name))
        if found := [problem for key, problem in self.problems.items() if key[0] == name]:
            raise FailedPrecondition("; ".join(found))
        return [engine for engine in self._engines.all() if engine.name == name]

    async def _load(self, name: str) -> None:
        async with self._lock:
            folder = (await self._read()).get(name)
            if folder is None:
                raise NotFound(f"name: there is no model {name!r} in the server's folder")
            self._unloaded = {key for key in self._unloaded if key[0] != name}
            await self._apply(name, folder)

    async def unload(self, name: str, version: int = 0, seconds: float | None = None) -> list[Departure]:
        """Begins to unload a version, or all of a model; its sessions may go on for `seconds`.

        Raises:
            NotFound: none is loaded.
        """
        async with self._lock:
            engines = [each for each in self._engines.all() if each.name == name and version in (0, each.version)]
            if not engines:
                raise NotFound(f"name: no model {name!r}{f' version {version}' if version else ''} is loaded")
            for engine in engines:
                self._unloaded.add((name, engine.version))
                self._dismiss(engine)
                self._departures[name, engine.version].hurry(self._unload_seconds if seconds is None else seconds)
            await self._tell()
            return [self._departures[name, engine.version] for engine in engines]

    async def stop(self) -> None:
        """Loads nothing any more, and leaves what is loaded as it is."""
        self._is_stopped = True
        for loading in (self._polling, *self._loading):
            if loading is not None:
                loading.cancel()
        for departure in self._departures.values():
            departure.cancel()

    # Looking for changes.

    async def _poll_forever(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                async with self._lock:
                    await self._poll()
            except FailedPrecondition as error:
                log.warning("the models stay as they are: %s", error)
            except Exception:
                log.exception("the models stay as they are")

    async def _poll(self) -> None:
        found = await self._read()
        for name in self._changes.due(found):
            await self._apply(name, found.get(name))

    async def _read(self) -> dict[str, ModelFolder]:
        try:
            return await asyncio.to_thread(read_folder, self._path)
        except ModelError as error:
            raise FailedPrecondition(str(error)) from error

    # Making it so.

    async def _apply(self, name: str, folder: ModelFolder | None) -> None:
        """Brings one model to what its folder says; None if it is not there any more."""
        for key in [key for key in self.problems if key[0] == name]:
            del self.problems[key]
        self._changes.apply(name, folder)
        if folder is None:
            self._keep(name, ())
        else:
            try:
                await self._load_wanted(folder)
            except ModelError as error:
                self._problem(name, 0, error)
        await self._tell()

    async def _load_wanted(self, folder: ModelFolder) -> None:
        if not folder.entries:
            raise ModelError(folder.problem)
        settings = await asyncio.to_thread(self._loader.settings_of, folder)
        entries = {entry.version: entry for entry in folder.entries}
        missing = settings.missing(entries)
        if found := "; ".join(filter(None, [folder.problem, *missing])):
            self._problem(folder.name, 0, ModelError(found))
        wanted = settings.wanted(entries)
        served = [await self._load_first([entries[version] for version in choice], settings) for choice in wanted]
        self._move_aliases(folder.name, settings.aliases or {})
        if not missing and None not in served:
            self._keep(folder.name, served)

    def _move_aliases(self, name: str, wanted: Mapping[str, Alias]) -> None:
        known = [engine.version for engine in self._engines.all() if engine.name == name]
        open_versions = [version for version in known if self._engines.is_open(name, version)]
        self._engines.set_aliases(name, moved(self._engines.aliases_of(name), wanted, open_versions))

    async def _load_first(self, entries: Sequence[Entry], settings: ModelSettings) -> int | None:
        """Loads the first that can be; returns its version, or that of one which was unloaded at somebody's wish."""
        for entry in entries:
            key = (entry.name, entry.version)
            if key in self._unloaded:
                return entry.version
            if key not in self.problems:  # or it has been tried a moment ago
                await self._load_one(entry, settings)
            if self._engines.is_open(*key):
                return entry.version
        return None

    async def _load_one(self, entry: Entry, settings: ModelSettings) -> None:
        key = (entry.name, entry.version)
        try:
            if (engine := self._engines.find(*key)) is not None and not self._is_ending(key):
                await self._check_same(entry, engine)
            if self._is_ending(key):  # perhaps since a moment ago
                await self._departures[key].done()
            if (engine := self._engines.find(*key)) is None:
                await self._add(entry, settings)
            else:
                self._call_back(engine)
        except ModelError as error:
            self._problem(*key, error)

    def _is_ending(self, key: Key) -> bool:
        departure = self._departures.get(key)
        return departure is not None and departure.is_final

    async def _add(self, entry: Entry, settings: ModelSettings) -> Engine:
        engine = await self._loader.load(entry, settings)
        if self._is_stopped:  # or it would open sessions while the others drain
            await engine.stop()
            raise Unavailable("the server is draining")
        self._engines.add(engine)
        self._marks[entry.name, entry.version] = entry.mark
        self._past.discard((entry.name, entry.version))
        return engine

    async def _check_same(self, entry: Entry, engine: Engine) -> None:
        """A version never changes: its sessions' states are of that one model."""
        key = (entry.name, entry.version)
        if entry.mark == self._marks[key]:
            return
        fingerprint = await self._loader.fingerprint(entry.path)
        if fingerprint != engine.fingerprint:
            raise ModelError(
                f"{entry.path}: has changed, from fingerprint {engine.fingerprint} to {fingerprint}, but version "
                f"{entry.version} is loaded: give the new file a version of its own, or unload this one first"
            )
        self._marks[key] = entry.mark

    def _keep(self, name: str, versions: Collection[int | None]) -> None:
        """Lets go of a model's other versions."""
        for engine in self._engines.all():
            if engine.name == name and engine.version not in versions:
                self._dismiss(engine)

    def _dismiss(self, engine: Engine, *, lingers: bool = False) -> None:
        key = (engine.name, engine.version)
        if key not in self._departures:
            self._departures[key] = Departure(
                engine, self._engines, self._unload_seconds, self._drain_seconds, self._gone, lingers=lingers
            )

    def _gone(self, departure: Departure) -> None:
        key = (departure.engine.name, departure.engine.version)
        del self._departures[key]
        if departure.is_over:
            self._past.add(key)
        for name, _ in self.problems:  # there is more room now, or a number is free
            self._changes.try_again(name)

    def _call_back(self, engine: Engine) -> None:
        if departure := self._departures.pop((engine.name, engine.version), None):
            departure.cancel()
            self._engines.reopen(engine)

    async def _to_the_end(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Runs it, whether or not its caller stays: one that is less patient than a load would have it never done."""
        loading = asyncio.get_running_loop().create_task(coroutine)
        self._loading.add(loading)
        loading.add_done_callback(self._loading.discard)
        await asyncio.wait((loading,))
        if loading.cancelled():
            raise Unavailable("the server is draining")
        loading.result()

    async def _bring_back(self, name: str, version: int) -> None:
        await self._to_the_end(self._load_retired(name, version))

    async def _load_retired(self, name: str, version: int) -> None:
        """Loads a version for a session that the store has of it, and for no new ones.

        Raises:
            FailedPrecondition: it is not in the folder, was unloaded here, or cannot be served.
        """
        problem = f"checkpoint: model {name} version {version} is not loaded here"
        async with self._lock:
            if self._engines.find(name, version) is not None:
                return
            if (name, version) in self._unloaded | self._past:
                raise FailedPrecondition(f"{problem}: it was unloaded")
            if known := self.problems.get((name, version)):  # the next session is not to try it again
                raise FailedPrecondition(f"{problem}, and cannot be: {known}")
            try:
                folder = (await self._read()).get(name)
                entry = next((each for each in folder.entries if each.version == version), None) if folder else None
                if folder is None or entry is None:
                    raise FailedPrecondition(f"{problem}, and not in the server's folder")
                engine = await self._add(entry, await asyncio.to_thread(self._loader.settings_of, folder))
            except ModelError as error:
                self._problem(name, version, error)
                raise FailedPrecondition(f"{problem}, and cannot be: {error}") from error
            self._dismiss(engine, lingers=True)

    def _problem(self, name: str, version: int, error: ModelError) -> None:
        self.problems[name, version] = str(error)
        log.error("model not served: %s", error, extra={"model": name, "version": version})

    async def _tell(self) -> None:
        if self.changed is not None:
            await self.changed()

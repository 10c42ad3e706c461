"""The server's settings, each said once; flags, environment variables and the file's keys follow from that."""

import tomllib
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from conveyor.engine.durability import Durability, Mode
from conveyor.engine.limits import Device, Limits, Provider
from conveyor.store import Store
from conveyor.store.opening import open_store

PREFIX = "CONVEYOR_"
CONFIG = "CONVEYOR_CONFIG"


class SettingsError(ValueError):
    """Settings that cannot be used. `problems` has one sentence for each."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(self.problems))


def _about(text: str, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"help": text, "low": low, "high": high}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that an operator may choose.

    The default host is this machine alone, because the server asks nobody who they are: it is opened to a network
    knowingly, as the container images do.

    Raises:
        SettingsError: with every field that is out of range.
    """

    models: Path = field(
        default=Path("models"), metadata=_about("folder of NAME/VERSION/model.onnx, or one .onnx file")
    )
    poll_seconds: float = field(
        default=0.0, metadata=_about("seconds between looks for new and changed models; 0 never looks", 0, 86_400)
    )
    unload_timeout: float = field(
        default=3600.0,
        metadata=_about("seconds that sessions may go on, on a version that a newer one has replaced", 0, 31_536_000),
    )
    max_arena_bytes: int = field(
        default=0, metadata=_about("size of the arenas of all models together; 0 sets no bound", 0)
    )
    host: str = field(default="127.0.0.1", metadata=_about("address to listen on; 0.0.0.0 or :: for every network"))
    port: int = field(default=50051, metadata=_about("port of gRPC; 0 picks a free one", 0, 65535))
    metrics_port: int = field(
        default=9090, metadata=_about("port of the Prometheus metrics; 0 picks a free one", 0, 65535)
    )
    provider: Provider = field(
        default="auto", metadata=_about("where models run; auto is cuda where there is a GPU, else cpu")
    )
    device_id: int = field(default=0, metadata=_about("number of the GPU"))
    num_threads: int = field(
        default=0, metadata=_about("threads of each run on the CPU; 0 takes all available cores but one")
    )
    num_slots: int = field(
        default=4096, metadata=_about("sessions of a model whose state stays on its device; others wait in host memory")
    )
    max_sessions: int = field(default=100_000, metadata=_about("open sessions of a model"))
    max_batch: int = field(default=256, metadata=_about("sessions that advance in one run"))
    max_run_steps: int = field(
        default=64, metadata=_about("steps of one chunk in a run; longer chunks are cut to let others in")
    )
    max_chunk_steps: int = field(default=4096, metadata=_about("steps of one chunk"))
    max_waiting_chunks: int = field(default=16_384, metadata=_about("chunks that may wait for a run of a model"))
    prefix_cache_bytes: int = field(
        default=64 * 1024 * 1024,
        metadata=_about("size of the states kept of what prompts may begin with, for each model; 0 keeps none"),
    )
    max_stream_steps: int = field(
        default=16_384, metadata=_about("steps of a stream that may be unanswered before no more of it is read", 1)
    )
    trial_seconds: int = field(
        default=120,
        metadata=_about(
            "time that a file may take to load and run, tried in a process of its own; 0 tries and bounds none",
            0,
            86_400,
        ),
    )
    trial_bytes: int = field(
        default=8 * 1024**3, metadata=_about("address space that a file may take to load and run", 1024**3)
    )
    max_message_bytes: int = field(
        default=16 * 1024 * 1024, metadata=_about("size of a request message", 1024, 2**31 - 1)
    )
    idle_timeout: float = field(
        default=600.0, metadata=_about("seconds after which an unused session ends, if it does not say itself")
    )
    max_idle_timeout: float = field(
        default=86_400.0, metadata=_about("longest idle timeout that a session may ask for, in seconds")
    )
    max_lifetime: float = field(default=604_800.0, metadata=_about("longest life of a session, in seconds"))
    drain_timeout: float = field(
        default=30.0,
        metadata=_about("seconds that finishing and storing may take when the server stops", 0, 86_400),
    )
    store: str = field(
        default="sqlite",
        metadata=_about(
            "where checkpoints are kept: sqlite (in the state folder), valkey://HOST:PORT/DB, memory, none"
        ),
    )
    state_dir: Path = field(default=Path("conveyor-state"), metadata=_about("folder of what outlives the server"))
    store_replicas: int = field(
        default=0,
        metadata=_about("replicas of Valkey that must have what SYNC stores, and each taking up", 0, 16),
    )
    durability: Literal["none", "async", "sync"] = field(
        default="async", metadata=_about("durability of sessions that do not say")
    )
    checkpoint_steps: int = field(
        default=64, metadata=_about("most steps between two checkpoints of an async session, if it does not say", 1)
    )
    checkpoint_seconds: float = field(
        default=1.0,
        metadata=_about("most seconds that a step waits for a checkpoint, if its session does not say", 0, 86_400),
    )
    seal_key: str = field(
        default="",
        metadata=_about(
            "secret that seals exported checkpoints, the same on all servers; empty keeps one in state_dir"
        ),
    )
    log_level: Literal["debug", "info", "warning", "error"] = field(
        default="info", metadata=_about("least severity that is logged")
    )
    log_format: Literal["text", "json"] = field(default="text", metadata=_about("form of a log line"))

    def __post_init__(self) -> None:
        if problems := [
            *self._out_of_range(),
            *_problems_of(self.limits),
            *_problems_of(self.device),
            *_problems_of(self.open_store),
        ]:
            raise SettingsError(dict.fromkeys(problems))  # a provider is checked twice

    def limits(self) -> Limits:
        """What each engine may hold."""
        return Limits(**{limit.name: getattr(self, limit.name) for limit in fields(Limits)})

    def default_durability(self) -> Durability:
        """Durability of sessions that do not say."""
        return Durability(Mode(self.durability), self.checkpoint_steps, self.checkpoint_seconds)

    def open_store(self) -> Store | None:
        """The store of checkpoints. Raises ValueError if the setting names none."""
        try:
            return open_store(self.store, self.state_dir, self.store_replicas)
        except ValueError as error:
            raise ValueError(f"store: {error}") from None

    def device(self) -> Device:
        """Where the models run."""
        return Device(self.provider, self.num_threads, self.device_id)

    def _out_of_range(self) -> Iterable[str]:
        for setting in fields(self):
            value = getattr(self, setting.name)
            low, high = setting.metadata["low"], setting.metadata["high"]
            if low is not None and not low <= value <= (high or float("inf")):
                bounds = f"{low} to {high}" if high else f"at least {low}"
                yield f"{setting.name}: must be {bounds}, got {value}"
            if get_origin(setting.type) is Literal and value not in get_args(setting.type):
                yield f"{setting.name}: must be one of {', '.join(get_args(setting.type))}, got {value!r}"


def _problems_of(make: Any) -> list[str]:
    try:
        make()
    except ValueError as error:
        return str(error).splitlines()
    return []


def add_flags(parser: ArgumentParser) -> None:
    """Adds a flag for each setting. Values are left as text: `load` checks them all together."""
    parser.add_argument("--config", metavar="FILE", help="TOML file of settings, named as the flags with _ for -")
    for setting in fields(Settings):
        if setting.name != "models":
            parser.add_argument(
                f"--{setting.name.replace('_', '-')}",
                metavar=_metavar(setting.type),
                help=f"{setting.metadata['help']} (default {setting.default})",
            )


def _metavar(kind: Any) -> str:
    return "|".join(get_args(kind)) if get_origin(kind) is Literal else {int: "N", float: "SECONDS"}.get(kind, "TEXT")


def load(flags: Namespace, environment: Mapping[str, str]) -> Settings:
    """The settings from defaults, file, environment and flags, the later before the earlier.

    Raises:
        SettingsError: with every problem of every source.
    """
    problems: list[str] = []
    config = flags.config or environment.get(CONFIG)
    sources = {
        **(_from_file(Path(config), problems) if config else {}),
        **_from_environment(environment, problems),
        **_from_flags(flags),
    }
    values = {}
    for name, (origin, raw) in sources.items():
        try:
            values[name] = _convert(_KINDS[name], raw)
        except ValueError as error:
            problems.append(f"{origin}: {error}")
    try:
        settings = Settings(**values)
    except SettingsError as error:
        raise SettingsError([*problems, *error.problems]) from None
    if problems:
        raise SettingsError(problems)
    return settings


_KINDS: dict[str, Any] = {setting.name: setting.type for setting in fields(Settings)}
# Where a value came from, for the message, and the value as it was there.
_Raw = dict[str, tuple[str, Any]]


def _from_file(path: Path, problems: list[str]) -> _Raw:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"{path}: {error.strerror}")
        return {}
    except ValueError as error:
        problems.append(f"{path}: not TOML: {error}")
        return {}
    problems += [f"{path}: {name} is not a setting" for name in table if name not in _KINDS]
    return {name: (f"{path}: {name}", value) for name, value in table.items() if name in _KINDS}


def _from_environment(environment: Mapping[str, str], problems: list[str]) -> _Raw:
    found: _Raw = {}
    for variable, value in environment.items():
        if not variable.startswith(PREFIX) or variable == CONFIG:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in _KINDS:
            problems.append(f"{variable} is not a setting")
        elif value.startswith("tcp://"):
            # Kubernetes injects such a variable for every Service of the namespace, ours included.
            problems.append(f"{variable}: is a Kubernetes service link; set enableServiceLinks: false on the pod")
        else:
            found[name] = (variable, value)
    return found


def _from_flags(flags: Namespace) -> _Raw:
    given = {name: getattr(flags, name, None) for name in _KINDS}
    origins = {name: "PATH" if name == "models" else f"--{name.replace('_', '-')}" for name in given}
    return {name: (origins[name], value) for name, value in given.items() if value is not None}


def _convert(kind: Any, raw: Any) -> Any:
    """The value of a setting, from text or from a TOML value. Literals are checked by `Settings`."""
    wrong = ValueError(f"must be {_NAMES.get(kind, 'text')}, got {raw!r}")
    if isinstance(raw, bool) or not isinstance(raw, str | int | float):
        raise wrong
    if kind in (int, float):
        if not isinstance(raw, str) and kind is int and not isinstance(raw, int):
            raise wrong
        try:
            return kind(raw)
        except ValueError:
            raise wrong from None
    if not isinstance(raw, str) or not raw:
        raise wrong
    return Path(raw) if kind is Path else raw


_NAMES = {int: "a whole number", float: "a number of seconds", Path: "a path"}

"""What an operator says of one model, in its folder's `conveyor.toml`."""

import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

from conveyor.engine.aliases import Alias
from conveyor.engine.limits import Device, Limits
from conveyor.graph.errors import ModelError
from conveyor.repository.folder import NAME

LIMITS: dict[str, type] = get_type_hints(Limits)
DEVICE: dict[str, type] = {"provider": str, "num_threads": int, "device_id": int}
MAX_TRIED = 4  # versions, the latest first, until one can be served: a folder may have thousands that cannot
KINDS = {int: "a whole number", float: "a number of seconds", str: "text"}


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Which versions are to be loaded, how, and what they are called. `versions` as numbers are those alone."""

    limits: Limits
    device: Device
    versions: Literal["latest", "all"] | tuple[int, ...] = "latest"
    aliases: Mapping[str, Alias] | None = None

    def wanted(self, versions: Collection[int]) -> list[Sequence[int]]:
        """Which of the versions that there are should be loaded: of each sequence the first that can be.

        Those with an alias always; the latest has those before it to stand in for it.
        """
        named = {version for _, version in self._named()}
        alone = set(versions) if self.versions == "all" else named.intersection(versions)
        wanted: list[Sequence[int]] = [(version,) for version in sorted(alone)]
        return [*wanted, sorted(versions, reverse=True)[:MAX_TRIED]] if self.versions == "latest" else wanted

    def missing(self, versions: Collection[int]) -> list[str]:
        """A sentence for each version that is named and not there."""
        return [
            f"{field}: there is no version {version}" for field, version in self._named() if version not in versions
        ]

    def _named(self) -> list[tuple[str, int]]:
        aliases = [(f"aliases.{name}", alias.version) for name, alias in (self.aliases or {}).items()]
        chosen = self.versions if isinstance(self.versions, tuple) else ()
        return [*aliases, *(("versions", version) for version in chosen)]


def read_settings(path: Path, limits: Limits, device: Device) -> ModelSettings:
    """The settings in a file, over those of the server; just these if there is no file.

    Raises:
        ModelError: with everything that is wrong; the message starts with the path.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not TOML: {error}") from error
    problems = list(_problems(table))
    given = {name: value for name, value in table.items() if not any(p.startswith(f"{name}: ") for p in problems)}
    for settings, kinds in ((limits, LIMITS), (device, DEVICE)):
        try:
            replace(settings, **{name: given[name] for name in kinds if name in given})
        except ValueError as error:
            problems += str(error).splitlines()
    if problems:
        raise ModelError(f"{path}: {'; '.join(problems)}")
    versions = table.get("versions", "latest")
    return ModelSettings(
        replace(limits, **{name: table[name] for name in LIMITS if name in table}),
        replace(device, **{name: table[name] for name in DEVICE if name in table}),
        tuple(versions) if isinstance(versions, list) else versions,
        {name: _alias(value) for name, value in table.get("aliases", {}).items()},
    )


def _alias(value: Any) -> Alias:
    return Alias(**value) if isinstance(value, dict) else Alias(value)


def _problems(table: Mapping[str, Any]) -> Iterator[str]:
    for name, value in table.items():
        if name in LIMITS or name in DEVICE:
            kind = (LIMITS | DEVICE)[name]
            kinds = (int, float) if kind is float else (kind,)
            if isinstance(value, bool) or not isinstance(value, kinds):
                yield f"{name}: must be {KINDS[kind]}, got {value!r}"
        elif name == "versions":
            if value not in ("latest", "all") and not (
                isinstance(value, list) and value and all(map(_is_version, value))
            ):
                yield f'versions: must be "latest", "all" or a list of numbers from 1, got {value!r}'
        elif name == "aliases":
            yield from _alias_problems(value)
        else:
            yield f"{name}: is not a setting of a model"


def _alias_problems(aliases: Any) -> Iterator[str]:
    if not isinstance(aliases, dict):
        yield f"aliases: must be a table, got {aliases!r}"
        return
    total = 0
    for name, value in aliases.items():
        version, percent = (
            (value, 0) if not isinstance(value, dict) else (value.get("version"), value.get("percent", 0))
        )
        if not NAME.fullmatch(name):
            yield f"aliases: {name!r} is not of letters, digits, '.', '_' and '-'"
        if not _is_version(version) or (isinstance(value, dict) and not value.keys() <= {"version", "percent"}):
            yield f"aliases: {name} must be a version, or {{version = N, percent = N}}, got {value!r}"
        elif isinstance(percent, bool) or not isinstance(percent, int) or not 0 <= percent <= 100:
            yield f"aliases: {name}.percent must be 0 to 100, got {percent!r}"
        else:
            total += percent
    if total > 100:
        yield f"aliases: the shares are {total} percent together"


def _is_version(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1

"""Finds the models of a folder `NAME/VERSION/model.onnx`, or the one of a single file."""

import re
from dataclasses import dataclass
from pathlib import Path

from conveyor.graph.errors import ModelError

FILE_NAME = "model.onnx"
# Names travel in requests, health checks and metric labels.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A version of a model, and the file that holds it."""

    name: str
    version: int
    path: Path


def find_models(path: Path) -> list[Entry]:
    """The newest version of each model in the folder, by name; or the file, as version 1 of a model of its own name.

    Raises:
        ModelError: there is nothing to serve, or something that is not laid out so; the message starts with the path.
    """
    if path.is_file():
        return [_file_entry(path)]
    if not path.is_dir():
        raise ModelError(f"{path}: no such file or folder")
    entries = [_newest(folder) for folder in _folders(path)]
    if not entries:
        raise ModelError(f"{path}: has no models; expected NAME/VERSION/{FILE_NAME} in it")
    return entries


def _file_entry(path: Path) -> Entry:
    if path.suffix != ".onnx":
        raise ModelError(f"{path}: not an .onnx file")
    return Entry(_checked_name(path.stem, path), 1, path)


def _newest(folder: Path) -> Entry:
    name = _checked_name(folder.name, folder)
    versions = [(_version(version), version) for version in _folders(folder)]
    if not versions:
        raise ModelError(f"{folder}: has no versions; expected {folder.name}/1/{FILE_NAME}")
    version, newest = max(versions)
    if not (newest / FILE_NAME).is_file():
        raise ModelError(f"{newest}: has no {FILE_NAME}")
    return Entry(name, version, newest / FILE_NAME)


def _version(folder: Path) -> int:
    # Only "1" is version 1: "01" beside it would be a second one.
    if not re.fullmatch(r"[1-9][0-9]{0,17}", folder.name):
        raise ModelError(f"{folder}: a version is a whole number from 1, without leading zeros")
    return int(folder.name)


def _checked_name(name: str, path: Path) -> str:
    if not NAME.fullmatch(name):
        raise ModelError(
            f"{path}: a model's name is of letters, digits, '.', '_' and '-', and starts with neither sign"
        )
    return name


def _folders(path: Path) -> list[Path]:
    # Hidden ones are not models: Kubernetes mounts volumes with `..data` folders.
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))

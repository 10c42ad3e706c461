"""Reads the folder of models, `NAME/VERSION/model.onnx` and `NAME/conveyor.toml`, or a single file, as it is now."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from conveyor.graph.errors import ModelError
from conveyor.graph.source import signature_path

FILE_NAME = "model.onnx"
SETTINGS_NAME = "conveyor.toml"
# Names travel in requests, health checks and metric labels; health has names of its own, which begin with ours.
NAME = re.compile(r"(?!conveyor\.)[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

# Path, size and time of the last change of each file.
Mark = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A version of a model, and the file that holds it. `mark` differs whenever a file of the version does."""

    name: str
    version: int
    path: Path
    mark: Mark = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """What the folder has of one model. `problem` says what is wrong with its folders. `mark` is of all its files."""

    name: str
    path: Path
    entries: tuple[Entry, ...] = ()
    problem: str = ""
    mark: Mark = ()


def read_folder(path: Path) -> dict[str, ModelFolder]:
    """The models of the folder, by name; or the file, as version 1 of a model of its own name.

    Raises:
        ModelError: it cannot be read, or has no models; the message starts with the path.
    """
    if path.is_file():
        return _of_file(path)
    if not path.is_dir():
        raise ModelError(f"{path}: no such file or folder")
    try:
        folders = _folders(path)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    if not folders:
        raise ModelError(f"{path}: has no models; expected NAME/VERSION/{FILE_NAME} in it")
    return {found.name: found for found in map(_of_folder, folders)}


def _of_file(path: Path) -> dict[str, ModelFolder]:
    if path.suffix != ".onnx":
        raise ModelError(f"{path}: not an .onnx file")
    if not NAME.fullmatch(path.stem):
        raise ModelError(_name_problem(path))
    mark = _mark(path) + _mark(signature_path(path))
    return {path.stem: ModelFolder(path.stem, path, (Entry(path.stem, 1, path, mark),), mark=mark)}


def _of_folder(folder: Path) -> ModelFolder:
    if not NAME.fullmatch(folder.name):
        return ModelFolder(_text(folder.name), folder, problem=_name_problem(folder))
    try:
        return _of_model(folder)
    except OSError as error:
        return ModelFolder(folder.name, folder, problem=_text(f"{error.filename or folder}: {error.strerror}"))


def _of_model(folder: Path) -> ModelFolder:
    entries: list[Entry] = []
    problems: list[str] = []
    for child in _folders(folder):
        if not (path := child / FILE_NAME).is_file():
            continue
        # Only "1" is version 1: "01" beside it would be a second one.
        if re.fullmatch(r"[1-9][0-9]{0,17}", child.name):
            entries.append(Entry(folder.name, int(child.name), path, tuple(sorted(_marks(child)))))
        else:
            problems.append(_text(f"{child}: a version is a whole number from 1, without leading zeros"))
    if not entries and not problems:
        problems.append(f"{folder}: has no versions; expected {folder.name}/1/{FILE_NAME}")
    entries.sort(key=lambda entry: entry.version)
    mark = _mark(folder / SETTINGS_NAME) + tuple(each for entry in entries for each in entry.mark)
    return ModelFolder(folder.name, folder, tuple(entries), "; ".join(problems), mark)


def _name_problem(path: Path) -> str:
    return _text(
        f"{path}: a model's name is of letters, digits, '.', '_' and '-', starts with neither sign nor with 'conveyor.'"
    )


def _text(name: str) -> str:
    """A name as it can be sent: those of files may be of any bytes."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _folders(path: Path) -> list[Path]:
    # Hidden ones are not models: Kubernetes mounts volumes with `..data` folders.
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))


def _mark(path: Path) -> Mark:
    if not path.is_file():
        return ()
    stat = path.stat()
    return ((str(path), stat.st_size, stat.st_mtime_ns),)


def _marks(folder: Path | str) -> Iterator[tuple[str, int, int]]:
    """Those of all files below a folder. With one look at each: there may be thousands of versions."""
    with os.scandir(folder) as found:
        for each in found:
            if each.is_dir(follow_symlinks=False):
                yield from _marks(each.path)
            elif each.is_file():
                stat = each.stat()
                yield each.path, stat.st_size, stat.st_mtime_ns

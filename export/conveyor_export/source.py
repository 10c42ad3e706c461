"""Finds what the command line names: a checkpoint, a model that was exported before, or `package.module:attribute`."""

import hashlib
import importlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from conveyor_export.errors import SourceError
from conveyor_export.language_model import load_checkpoint
from conveyor_export.reading import read_language_model
from conveyor_export.reasons import first_line, whole_reason


@dataclass(frozen=True, slots=True)
class Source:
    """A module to export, with its vocabulary and what is known of its making."""

    module: nn.Module
    vocabulary: list[str] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)


def load_source(name: str, vocabulary_path: Path | None = None) -> Source:
    """Loads a checkpoint or an ONNX file, or a module instance or a function without arguments that returns one.

    Raises:
        SourceError: neither can be had.
    """
    is_attribute = ":" in name and not Path(name).exists()
    source = _load_attribute(name) if is_attribute else _load_file(Path(name))
    if vocabulary_path is not None:
        return Source(source.module, read_vocabulary(vocabulary_path), source.provenance)
    return source


def read_vocabulary(path: Path) -> list[str]:
    """Reads a JSON list of strings, the text of each token id; entry 0 stands for the unknown.

    Raises:
        SourceError: not such a file.
    """
    try:
        symbols = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"vocabulary: {path}: {error}") from error
    if not isinstance(symbols, list) or not all(isinstance(symbol, str) for symbol in symbols):
        raise SourceError(f"vocabulary: {path}: expected a JSON list of strings")
    return symbols


def _load_file(path: Path) -> Source:
    if not path.is_file():
        raise SourceError(f"{path}: no such file (for a module in code, give package.module:attribute)")
    if path.suffix == ".onnx":
        model, vocabulary, provenance = read_language_model(path)
        return Source(model, vocabulary or None, {**provenance, "model": path.name, "model_sha256": _digest(path)})
    try:
        model, vocabulary, provenance = load_checkpoint(path)
    except Exception as error:  # torch.load and load_state_dict raise a dozen kinds on a file that is not theirs
        raise SourceError(f"{path}: not a checkpoint of conveyor-train: {first_line(error)}") from error
    return Source(model, vocabulary, {**provenance, "checkpoint": path.name, "checkpoint_sha256": _digest(path)})


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _load_attribute(name: str) -> Source:
    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does, so that the user's own code is found
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
        module = found if isinstance(found, nn.Module) else found()
    except Exception as error:  # the user's code may raise anything
        raise SourceError(f"{name}: {whole_reason(error)}") from error
    finally:
        sys.path.remove(str(Path.cwd()))
    if not isinstance(module, nn.Module):
        kind = type(module).__name__
        raise SourceError(f"{name}: expected a torch.nn.Module or a function that returns one, got {kind}")
    return Source(module, provenance={"module": name})

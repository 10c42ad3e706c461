"""Where a model's signature comes from: `signature.json` beside the file, the file's own metadata, or its graph."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from conveyor.graph.errors import ModelError
from conveyor.graph.proposal import propose
from conveyor.signature import Signature

SIGNATURE_KEY = "conveyor.signature"


@dataclass(frozen=True, slots=True)
class Sourced:
    """A signature, what it was read from, and why it is so if nobody wrote it."""

    signature: Signature
    source: str
    decisions: tuple[str, ...] = ()


def signature_path(path: Path) -> Path:
    """Where a person's signature of a model lies: `signature.json` beside `model.onnx`, else `NAME.signature.json`.

    So several files in a folder never share one by accident.
    """
    return path.with_name("signature.json") if path.name == "model.onnx" else path.with_suffix(".signature.json")


def find_signature(proto: ModelProto, metadata: Mapping[str, str], path: Path | None) -> Sourced:
    """The signature of a graph. A file beside it comes first: a person put it there to have the last word.

    Raises:
        ModelError: it is malformed, or there is none and the graph leaves something open.
    """
    beside = signature_path(path) if path is not None else None
    if beside is not None and beside.is_file():
        return Sourced(_read(_text(beside), beside.name), beside.name)
    if SIGNATURE_KEY in metadata:
        return Sourced(_read(metadata[SIGNATURE_KEY], SIGNATURE_KEY), "metadata")
    proposal = propose(proto)
    return Sourced(proposal.signature(), "graph", tuple(proposal.decisions))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path.name}: {error}") from error


def _read(text: str, origin: str) -> Signature:
    try:
        return Signature.from_json(text)
    except ValueError as error:
        raise ModelError(f"{origin}: {error}") from error

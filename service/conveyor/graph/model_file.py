"""Reads an ONNX file, and finds out what it is."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from conveyor.graph.checks import MAX_BYTES, check_graph, check_roles
from conveyor.graph.errors import ModelError
from conveyor.graph.modern import modernised
from conveyor.graph.source import find_signature
from conveyor.graph.weights import load_weights
from conveyor.signature import Signature, Vocabulary

VOCABULARY_KEY = "conveyor.vocabulary"
PROVENANCE_KEY = "conveyor.provenance"


@dataclass(frozen=True, slots=True, eq=False)
class ModelFile:
    """A checked model. `fingerprint` is the SHA-256 in hex of graph, weights and signature, whatever the provenance.

    `source` says where the signature was read: `metadata`, the name of a file beside the model, or `graph` for one that
    was proposed; then `decisions` say why. `alone_because` says why sessions cannot run together though all
    tensors have a batch axis, which a trial finds out.
    """

    proto: onnx.ModelProto
    signature: Signature
    vocabulary: Vocabulary | None
    provenance: dict[str, Any]
    fingerprint: str
    path: Path | None = None
    source: str = "metadata"
    decisions: tuple[str, ...] = ()
    alone_because: str = ""


def read_model(path: Path) -> ModelFile:
    """Reads and checks an ONNX file, with the weights that lie beside it.

    Raises:
        ModelError: the file cannot be read or the model cannot be served; the message starts with the path.
    """
    with reading(path):
        return model_from_proto(read_proto(path), path)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Says of what goes wrong in here that it is this file's.

    Raises:
        ModelError: in place of what reading and checking a file raise; the message starts with the path.
    """
    try:
        yield
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from error
    except DecodeError as error:
        raise ModelError(f"{path}: not an ONNX file") from error
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def model_from_proto(proto: onnx.ModelProto, path: Path | None = None) -> ModelFile:
    """Checks a model that is in memory already; the proto is kept, not copied.

    Raises:
        ModelError: the model cannot be served.
    """
    metadata = metadata_of(proto)
    check_graph(proto)
    served = modernised(proto)
    found = find_signature(served, metadata, path)
    signature = found.signature
    check_roles(served, signature)
    return ModelFile(
        proto=served,
        signature=signature,
        vocabulary=_read_vocabulary(metadata, signature),
        provenance=_read_provenance(metadata),
        fingerprint=fingerprint(proto, signature),
        path=path,
        source=found.source,
        decisions=found.decisions,
    )


def read_proto(path: Path) -> onnx.ModelProto:
    """The file's graph with all its weights, unchecked.

    Raises:
        OSError, DecodeError: it cannot be read.
        ModelError: it is too large, or a weight cannot be read.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ModelError(f"{path.stat().st_size} bytes: more than the {MAX_BYTES} of a graph that can be served")
    proto = onnx.load_model(path, load_external_data=False)
    load_weights(proto, path.parent)
    return proto


def metadata_of(proto: onnx.ModelProto) -> dict[str, str]:
    """What the file says of itself, by key."""
    return {entry.key: entry.value for entry in proto.metadata_props}


def fingerprint(proto: onnx.ModelProto, signature: Signature) -> str:
    """SHA-256 in hex of all that decides a model's answers: nodes, weights, opsets and signature."""
    digest = sha256()

    def add(part: bytes) -> None:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)

    parts = (*proto.opset_import, *proto.graph.input, *proto.graph.output, *proto.graph.initializer)
    for message in (*parts, *proto.graph.sparse_initializer, *proto.functions):
        add(message.SerializeToString(deterministic=True))
    for node in proto.graph.node:
        bare = onnx.NodeProto()
        bare.CopyFrom(node)
        bare.doc_string = ""
        del bare.metadata_props[:]  # exporters leave stack traces here
        add(bare.SerializeToString(deterministic=True))
    add(signature.to_json().encode())
    return digest.hexdigest()


def _read_vocabulary(metadata: dict[str, str], signature: Signature) -> Vocabulary | None:
    if VOCABULARY_KEY not in metadata:
        return None
    symbols = _read_json(metadata, VOCABULARY_KEY)
    if not isinstance(symbols, list) or not symbols or not all(isinstance(symbol, str) for symbol in symbols):
        raise ModelError(f"{VOCABULARY_KEY}: expected a list of strings")
    if signature.logits is not None and len(symbols) != signature.logits.shape[-1]:
        raise ModelError(f"{VOCABULARY_KEY}: {len(symbols)} entries, but {signature.logits.shape[-1]} logits")
    return Vocabulary(symbols)


def _read_provenance(metadata: dict[str, str]) -> dict[str, Any]:
    provenance = _read_json(metadata, PROVENANCE_KEY) if PROVENANCE_KEY in metadata else {}
    if not isinstance(provenance, dict):
        raise ModelError(f"{PROVENANCE_KEY}: expected a JSON object")
    return provenance


def _read_json(metadata: dict[str, str], key: str) -> Any:
    try:
        return json.loads(metadata[key])
    except ValueError as error:
        raise ModelError(f"{key}: not JSON: {error}") from error

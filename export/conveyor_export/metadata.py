"""What an exported file says of itself, in the keys that the server reads."""

import json
from collections.abc import Sequence
from typing import Any

import onnx

from conveyor.signature import Signature

SIGNATURE = "conveyor.signature"
VOCABULARY = "conveyor.vocabulary"
PROVENANCE = "conveyor.provenance"


def write_metadata(
    model: onnx.ModelProto, signature: Signature, vocabulary: Sequence[str] | None, provenance: dict[str, Any]
) -> None:
    """Sets the signature, the provenance and, if there is one, the vocabulary."""
    entries = {SIGNATURE: signature.to_json(), PROVENANCE: json.dumps(provenance, indent=1)}
    if vocabulary is not None:
        entries[VOCABULARY] = json.dumps(list(vocabulary))
    onnx.helper.set_model_props(model, entries)


def read_metadata(model: onnx.ModelProto) -> tuple[Signature, list[str] | None, dict[str, Any]]:
    """Reads what `write_metadata` wrote.

    Raises:
        ValueError: the file carries no signature, or a malformed one.
    """
    entries = {entry.key: entry.value for entry in model.metadata_props}
    if SIGNATURE not in entries:
        raise ValueError(f"the file has no {SIGNATURE}")
    vocabulary = json.loads(entries[VOCABULARY]) if VOCABULARY in entries else None
    return Signature.from_json(entries[SIGNATURE]), vocabulary, json.loads(entries.get(PROVENANCE, "{}"))

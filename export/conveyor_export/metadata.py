"""What an exported file says of itself, in the keys that the server reads."""

import json
from collections.abc import Sequence
from typing import Any

import onnx

from conveyor.graph.model_file import PROVENANCE_KEY, VOCABULARY_KEY
from conveyor.graph.source import SIGNATURE_KEY
from conveyor.signature import Signature


def write_metadata(
    model: onnx.ModelProto, signature: Signature, vocabulary: Sequence[str] | None, provenance: dict[str, Any]
) -> None:
    """Sets the signature, the provenance and, if there is one, the vocabulary."""
    entries = {SIGNATURE_KEY: signature.to_json(), PROVENANCE_KEY: json.dumps(provenance, indent=1)}
    if vocabulary is not None:
        entries[VOCABULARY_KEY] = json.dumps(list(vocabulary))
    onnx.helper.set_model_props(model, entries)

"""Scores a text with an exported language model: the accuracy of a smaller form in a unit that people know."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from conveyor.signature import Signature, Vocabulary
from conveyor_export.errors import UnsupportedOption
from conveyor_export.runtime import Arrays, GraphRunner
from conveyor_export.shapes import full_shape, initial_states

_CHUNK_STEPS = 256


@dataclass(frozen=True, slots=True, eq=False)
class ScoredText:
    """A text as the model's tokens."""

    tokens: NDArray[np.int64]
    vocabulary: Vocabulary


def encode_text(signature: Signature, symbols: Sequence[str] | None, text: str) -> ScoredText:
    """Cuts a text into the model's tokens.

    Raises:
        UnsupportedOption: not a language model of tokens alone, no vocabulary, or fewer than two tokens.
    """
    if signature.logits is None or not signature.takes_tokens:
        raise UnsupportedOption("text: only a model of tokens with an output marked `is_logits` can be scored")
    if signature.contexts or signature.noises:
        raise UnsupportedOption("text: a model of contexts or noise says nothing of a text alone")
    if symbols is None:
        raise UnsupportedOption("text: needs the model's vocabulary")
    vocabulary = Vocabulary(symbols)
    tokens = np.array(vocabulary.encode(text), np.int64)
    if len(tokens) < 2:
        raise UnsupportedOption("text: too short to score")
    return ScoredText(tokens, vocabulary)


def bits_per_character(model: onnx.ModelProto, signature: Signature, text: ScoredText) -> float:
    """Mean -log2 p per character, read in one session from its initial states, the first token unscored."""
    assert signature.logits is not None  # noqa: S101  # encode_text has seen to it
    tokens, length = text.tokens, signature.fixed_steps or _CHUNK_STEPS
    runner = GraphRunner(model, signature)
    states: Arrays = {name: tensor.numpy() for name, tensor in initial_states(signature, 1).items()}
    # A graph of fixed steps takes no shorter last chunk: the few tokens over are left out.
    last = len(tokens) - 1 if signature.fixed_steps is None else (len(tokens) - 1) // length * length
    nats = 0.0
    for start in range(0, last, length):
        stop = min(start + length, last)
        inputs = tokens[start:stop].reshape(full_shape(signature.inputs[0], 1, stop - start))
        outputs, states = runner.run({signature.inputs[0].name: inputs}, states)
        nats += _nats(outputs[signature.logits.name].reshape(stop - start, -1), tokens[start + 1 : stop + 1])
    return nats / math.log(2) / len(text.vocabulary.decode(tokens[1 : last + 1].tolist()))


def _nats(logits: NDArray[Any], targets: NDArray[np.int64]) -> float:
    logits = logits.astype(np.float64)
    highest = logits.max(axis=1, keepdims=True)
    totals = np.log(np.exp(logits - highest).sum(axis=1)) + highest[:, 0]
    return float((totals - logits[np.arange(len(targets)), targets]).sum())

"""What a session must answer, from the model file run alone: one sequence at a time, in plain ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import ArrayLike, NDArray

from conveyor.client import GeneratedToken, TopToken
from conveyor.engine.sampler import uniforms

TOLERANCE = 1e-4  # of logits, logarithms of probabilities and running sums of probabilities

_STATES = ("h", "c")
Rows = NDArray[np.floating[Any]]


class Referee:
    """The shipped model, `models/shakespeare`: an LSTM of states `h` and `c`, both `[layers, batch, width]`."""

    def __init__(self, model: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._model = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        shapes = {each.name: each.shape for each in self._model.get_inputs()}
        self._initial = {
            name: np.zeros([1 if length == "B" else length for length in shapes[name]], np.float32) for name in _STATES
        }

    def begin(self) -> "Record":
        """The record of a new session."""
        return Record(self, dict(self._initial))

    def run(self, tokens: Sequence[int], states: dict[str, Rows]) -> Rows:
        """The logits after each token, `[steps, vocabulary]`; `states` are replaced."""
        names = ["logits", *(f"{name}_out" for name in _STATES)]
        logits, *new = self._model.run(names, {"tokens": np.array(tokens, np.int64)[:, np.newaxis], **states})
        states.update(zip(_STATES, new, strict=True))
        rows: Rows = logits[:, 0]
        return rows


class Record:
    """One session as it must be: `position` steps, and the states after them.

    Each method takes what the session was given and what it answered, and returns the largest difference: 0 at best,
    infinity for an answer of the wrong form or a token that could not have been drawn.
    """

    def __init__(self, referee: Referee, states: dict[str, Rows]) -> None:
        self.position = 0
        self._referee = referee
        self._states = states
        self._next: Rows | None = None  # logits of the token to come, where the server has them too

    def stepped(self, tokens: Sequence[int], logits: NDArray[np.generic]) -> float:
        """A chunk that answered with all logits, `[steps, vocabulary]`."""
        expected = self._run(tokens)
        self._next = None
        return difference(expected, logits)

    def ranked(self, tokens: Sequence[int], top: Sequence[Sequence[TopToken]]) -> float:
        """A chunk that answered with the best tokens of its last step."""
        expected = log_softmax(self._run(tokens)[-1])
        self._next = None
        if len(top) != 1:
            return float("inf")
        best = np.sort(expected)[::-1][: len(top[0])]
        got = [each.log_probability for each in top[0]]
        return max(difference(best, got), difference(expected[[each.token for each in top[0]]], got))

    def scored(self, tokens: Sequence[int], scores: Sequence[float]) -> float:
        """A chunk that answered with the logarithm of each token's probability."""
        before = self._next
        logits = self._run(tokens)
        first = np.full_like(logits[0], np.nan) if before is None else before
        predictions = log_softmax(np.vstack([first, logits[:-1]]))
        return difference(predictions[np.arange(len(tokens)), tokens], scores)

    def generated(self, prompt: Sequence[int], drawn: Sequence[GeneratedToken], seed: int, temperature: float) -> float:
        """A generation, as far as it came. Each token must be the one that its random number points at."""
        if not drawn:
            return 0.0
        start = self.position + len(prompt)
        tokens = [each.token for each in drawn]
        before = [] if self._next is None else [self._next]
        logits = np.vstack([*before, self._run([*prompt, *tokens])])[-len(drawn) - 1 : -1]
        numbers = uniforms(np.full(len(drawn), seed, np.uint64), np.arange(start, self.position, dtype=np.uint64))
        log_probabilities = log_softmax(logits)[np.arange(len(drawn)), tokens]
        return max(
            difference(log_probabilities, [each.log_probability for each in drawn]),
            difference([start + 1 + i for i in range(len(drawn))], [each.position for each in drawn]),
            max(map(_distance, np.exp(log_softmax(logits / np.float32(temperature))), tokens, numbers)),
        )

    def _run(self, tokens: Sequence[int]) -> Rows:
        logits = self._referee.run(tokens, self._states)
        self.position += len(tokens)
        self._next = logits[-1]
        return logits


def difference(expected: ArrayLike, got: ArrayLike) -> float:
    """The largest absolute difference; NaN equals NaN alone. Infinity if the shapes differ."""
    one, other = np.asarray(expected, np.float64), np.asarray(got, np.float64)
    if one.shape != other.shape or (np.isnan(one) != np.isnan(other)).any():
        return float("inf")
    return float(np.nanmax(np.abs(one - other), initial=0.0))


def log_softmax(logits: Rows) -> Rows:
    """Logarithms of probabilities along the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Rows = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _distance(probabilities: Rows, token: int, number: float) -> float:
    """How far `number` lies outside the token's stretch of the running sum: 0 if it points at the token.

    A number close to the border may fall on either side of it, because logits agree within rounding only.
    """
    end = float(probabilities[: token + 1].sum())
    return max(end - float(probabilities[token]) - number, number - end, 0.0)

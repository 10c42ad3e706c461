"""What every task of a comparison is: sequences of tokens, and the steps at which a token is to be named."""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Generator, Tensor

from conveyor_export.language_model import LanguageModel

Part = Literal["training", "validation", "test"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences side by side: `tokens` and `targets` `[T, B]` int64, `is_scored` `[T, B]` bool.

    A target counts only where it is scored.
    """

    tokens: Tensor
    targets: Tensor
    is_scored: Tensor


class Task(Protocol):
    """A source of sequences. `num_steps` is their length, `vocabulary_size` the number of tokens and of targets."""

    vocabulary_size: int
    num_steps: int

    def draw(self, num_sequences: int, rng: Generator, part: Part = "training") -> Batch:
        """New sequences. Those of a synthetic task never run out, so its parts differ in their random numbers alone."""


@dataclass(frozen=True, slots=True)
class Score:
    """Bits per scored token, the less the better, and the share of them that were named right."""

    bits: float
    accuracy: float


@torch.no_grad()
def score(model: LanguageModel, batch: Batch) -> Score:
    """How well the model names the targets; infinitely badly if its answers are not numbers."""
    outputs, _ = model({"tokens": batch.tokens}, model.initial_states(batch.tokens.shape[1]))
    logits, targets = outputs["logits"][batch.is_scored], batch.targets[batch.is_scored]
    bits = float(torch.nn.functional.cross_entropy(logits, targets)) / math.log(2)
    accuracy = float((logits.argmax(-1) == targets).float().mean())
    return Score(bits if math.isfinite(bits) else math.inf, accuracy)


def chance(batch: Batch) -> Score:
    """What is reached by knowing how often each target occurs, and nothing of the sequence."""
    targets = batch.targets[batch.is_scored]
    shares = torch.bincount(targets).double() / len(targets)
    return Score(float(-torch.special.xlogy(shares, shares).sum()) / math.log(2), float(shares.max()))

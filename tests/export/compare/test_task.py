"""Scores: of a model, and of one that knows nothing of the sequence."""

import math

import pytest
import torch

from conveyor_export.compare.budget import make_model
from conveyor_export.compare.task import Batch, Score, chance, score

TARGETS = torch.tensor([[1, 1, 0, 2], [2, 2, 2, 2]])
SCORED_FIRST = torch.tensor([[True] * 4, [False] * 4])
BATCH = Batch(torch.zeros_like(TARGETS), TARGETS, SCORED_FIRST)


def test_chance_is_the_entropy_of_the_scored_answers() -> None:
    """Answers with shares of a half and two quarters take 1.5 bits, and the commonest is right half the time."""
    assert chance(BATCH) == Score(pytest.approx(1.5), 0.5)


def test_score_is_of_the_scored_steps_alone() -> None:
    """A model that gives answer 1 a probability of 0.8 whatever it reads is charged so for each scored step."""
    model = make_model("elman", 3, 4)
    with torch.no_grad():
        model.projection.weight.zero_()
        model.projection.bias.copy_(torch.tensor([0.1, 0.8, 0.1]).log())

    assert score(model, BATCH) == Score(pytest.approx(-(2 * math.log2(0.8) + 2 * math.log2(0.1)) / 4, rel=1e-5), 0.5)


def test_a_model_without_numbers_scores_infinitely() -> None:
    """A training that ran away is the worst there is, not a NaN that compares with nothing."""
    model = make_model("elman", 3, 4)
    with torch.no_grad():
        model.projection.bias.fill_(math.nan)

    assert score(model, BATCH).bits == math.inf

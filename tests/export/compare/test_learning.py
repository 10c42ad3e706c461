"""Trainings: the recipe is the same for all, and it teaches."""

import pytest

from conveyor_export.compare.learning import RATES, Recipe, learn
from conveyor_export.compare.synthetic import Arithmetic, Timing


def test_a_task_is_learned_at_the_best_rate() -> None:
    """Short gaps are timed far better than by chance, from each seed alike in kind and not in numbers."""
    recipe = Recipe(num_parameters=2000, num_steps=1200, num_seeds=2)
    updates = []
    task = Timing(num_steps=12, shortest=2, longest=5)
    outcome = learn("elman", "timing", task, recipe, lambda: updates.append(1))

    assert list(outcome.trials) == list(RATES)
    assert outcome.trials[outcome.rate].bits == min(trial.bits for trial in outcome.trials.values())
    assert len(updates) == recipe.total_updates(task)
    first, second = outcome.scores
    assert max(first.bits, second.bits) < 0.5
    assert first != second


def test_the_same_architecture_comes_out_the_same() -> None:
    """Two names of one cell get the same weights and the same sequences, and so the same scores."""
    recipe = Recipe(num_parameters=1000, num_steps=60, num_seeds=1)
    ours, others = (learn(cell, "arithmetic", Arithmetic(2), recipe, lambda: None) for cell in ("np", "essay_lstm"))

    assert (ours.trials, ours.scores) == (others.trials, others.scores)


@pytest.mark.parametrize("field", ["num_parameters", "num_steps", "num_seeds"])
def test_a_recipe_of_nothing_is_refused(field: str) -> None:
    """The message names the field."""
    with pytest.raises(ValueError, match=f"{field}: expected a positive number, got 0"):
        Recipe(**{field: 0})

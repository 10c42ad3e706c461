"""Trains one architecture on one task: several rates from one seed, the best of them from the others."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, nn

from conveyor_export.compare.budget import make_model, num_parameters, width_for
from conveyor_export.compare.task import Batch, Score, Task, score
from conveyor_export.language_model import LanguageModel
from conveyor_export.ranges import check_positive

RATES = (3e-3, 1e-2, 3e-2)
BATCH_SIZE = 32
_NUM_JUDGED = 512
_CLIP_NORM = 1.0
# Seeds of the sequences that judge; those that teach have the training's own, which are small.
_VALIDATION_SEED, _TEST_SEED = 1 << 20, 1 << 21


@dataclass(frozen=True, slots=True)
class Recipe:
    """What all architectures get alike: parameters, time steps of each training on each task, and trainings."""

    num_parameters: int = 24_000
    num_steps: int = 8_000
    num_seeds: int = 4

    def __post_init__(self) -> None:
        check_positive(self, "num_parameters", "num_steps", "num_seeds")

    def num_updates(self, task: Task) -> int:
        """Updates of a training on the task, one at least."""
        return max(1, round(self.num_steps / task.num_steps))

    def total_updates(self, task: Task) -> int:
        """Those of all trainings of one architecture."""
        return (len(RATES) + self.num_seeds - 1) * self.num_updates(task)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one architecture reached on one task: `trials` by rate on validation data, `scores` by seed on test data.

    All trials are of the first seed; the best of them gives the `rate`, and its model the first of the scores.
    """

    cell: str
    task: str
    width: int
    num_parameters: int
    trials: dict[float, Score]
    rate: float
    scores: list[Score]


def learn(cell: str, name: str, task: Task, recipe: Recipe, on_update: Callable[[], object]) -> Outcome:
    """Trains from the first seed at each rate in full, for a short trial favours high rates; then from the others."""
    width = width_for(cell, task.vocabulary_size, recipe.num_parameters)
    validation = task.draw(_NUM_JUDGED, Generator().manual_seed(_VALIDATION_SEED), "validation")
    test = judging_batch(task)

    def trained(seed: int, rate: float) -> LanguageModel:
        torch.manual_seed(seed)
        model = make_model(cell, task.vocabulary_size, width)
        train(model, task, Generator().manual_seed(seed), rate, recipe.num_updates(task), on_update)
        return model

    firsts = {rate: trained(1, rate) for rate in RATES}
    trials = {rate: score(model, validation) for rate, model in firsts.items()}
    rate = min(trials, key=lambda each: trials[each].bits)
    models = [firsts[rate], *(trained(seed, rate) for seed in range(2, recipe.num_seeds + 1))]
    return Outcome(cell, name, width, num_parameters(models[0]), trials, rate, [score(each, test) for each in models])


def judging_batch(task: Task) -> Batch:
    """The sequences by which all architectures are judged."""
    return task.draw(_NUM_JUDGED, Generator().manual_seed(_TEST_SEED), "test")


def train(
    model: LanguageModel, task: Task, rng: Generator, rate: float, num_updates: int, on_update: Callable[[], object]
) -> None:
    """Adam on new sequences at each update, the rate falling to zero along half a cosine."""
    optimiser = torch.optim.Adam(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, num_updates)
    for _ in range(num_updates):
        batch = task.draw(BATCH_SIZE, rng)
        outputs, _ = model({"tokens": batch.tokens}, model.initial_states(BATCH_SIZE))
        loss = nn.functional.cross_entropy(outputs["logits"][batch.is_scored], batch.targets[batch.is_scored])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), _CLIP_NORM)
        optimiser.step()
        schedule.step()
        on_update()

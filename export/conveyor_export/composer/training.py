"""Teaches VRNN and STORN the chorales."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from conveyor_export.composer.chorales import NUM_KEYS, pad
from conveyor_export.generative.fitting import Plan, fit
from conveyor_export.generative.sequence_model import SequenceModel, Sizes
from conveyor_export.generative.storn import STORN
from conveyor_export.generative.vrnn import VRNN
from conveyor_export.weights import train_once

_BATCH_SIZE = 32
_MOST_TRANSPOSED = 3  # semitones up or down


@dataclass(frozen=True, slots=True)
class Recipe:
    """A model, its sizes, and how it is trained."""

    make: Callable[[Sizes], SequenceModel]
    sizes: Sizes
    plan: Plan


RECIPES = {
    "storn": Recipe(STORN, Sizes(NUM_KEYS, 16, 200, "bits"), Plan(4000, 3e-3, clip_norm=1)),
    "vrnn": Recipe(VRNN, Sizes(NUM_KEYS, 16, 128, "bits"), Plan(2000, 3e-3, clip_norm=1)),
}


def train(recipe: Recipe, rolls: list[Tensor], path: Path) -> SequenceModel:
    """A model of the rolls `[steps, NUM_KEYS]`, kept in the file."""
    model = recipe.make(recipe.sizes)
    by_length = sorted(rolls, key=len)  # chorales of about one length waste few steps

    def bound() -> Tensor:
        first = int(torch.randint(max(1, len(rolls) - _BATCH_SIZE), ()))
        x, there = pad([_transpose(roll) for roll in by_length[first : first + _BATCH_SIZE]])
        return (model.bound(x, torch.randn(*there.shape, recipe.sizes.latent_size)) * there).sum() / there.sum()

    train_once(model, path, lambda: fit(model, bound, recipe.plan))
    return model


def _transpose(roll: Tensor) -> Tensor:
    """The outer three keys are silent, so that none comes back at the other end."""
    return roll.roll(int(torch.randint(-_MOST_TRANSPOSED, _MOST_TRANSPOSED + 1, ())), 1)

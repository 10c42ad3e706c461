"""Teaches DRAW to paint digits, and tells how well it knows those that it never saw."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from conveyor_export.digits import NAMES, SIDE, Digits
from conveyor_export.generative.draw import DRAW, DRAWConfig
from conveyor_export.generative.fitting import Plan, fit
from conveyor_export.weights import train_once

NUM_GLIMPSES = 12
# A grey of these images counts the black ones among 4 x 4 pixels of a larger image.
CONFIG = DRAWConfig(SIDE, SIDE, hidden_size=96, num_classes=len(NAMES), pixel_bits=16)
PLAN = Plan(num_updates=5000, learning_rate=2e-3, clip_norm=5)
_BATCH_SIZE = 100
_NUM_DRAWS = 20  # of the latent variables, for the mean of a bound


def train(digits: Digits, plan: Plan, path: Path) -> DRAW:
    """A DRAW that is told which digit it paints, kept in the file."""
    draw = DRAW(CONFIG)

    def bound() -> Tensor:
        return _bound(draw, digits[torch.randint(len(digits), (_BATCH_SIZE,))])

    train_once(draw, path, lambda: fit(draw, bound, plan))
    return draw


@torch.no_grad()
def mean_bound(draw: DRAW, digits: Digits) -> float:
    """In nats an image."""
    return float(torch.stack([_bound(draw, digits) for _ in range(_NUM_DRAWS)]).mean())


def _bound(draw: DRAW, digits: Digits) -> Tensor:
    labels = one_hot(digits.labels, len(NAMES)).float()
    return draw.bound(digits.images, labels, torch.randn(NUM_GLIMPSES, len(digits), CONFIG.latent_size)).mean()

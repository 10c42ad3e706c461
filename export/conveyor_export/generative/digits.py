"""Handwritten digits, as scikit-learn ships them: 8 x 8 greys, and bits drawn from them."""

from dataclasses import dataclass

import torch
from torch import Tensor

NUM_CLASSES, SIDE = 10, 8
_NUM_HELD_OUT = 297
_DARKEST = 16


@dataclass(frozen=True, slots=True)
class Digits:
    """Greys `[N, 8, 8]` from 0 to 1, and one-hot labels `[N, 10]`; float32."""

    images: Tensor
    labels: Tensor

    def bits(self) -> Tensor:
        """Black or white pixels `[N, 8, 8]`, black as often as they are dark: what the models are of."""
        return torch.bernoulli(self.images)

    def sample(self, number: int) -> "Digits":
        """So many of them at random, with repetition."""
        chosen = torch.randint(len(self.images), (number,))
        return Digits(self.images[chosen], self.labels[chosen])


def read_digits() -> tuple[Digits, Digits]:
    """Those to learn from, and the last 297, which are held out.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.tensor(raw.images, dtype=torch.float32) / _DARKEST
    labels = torch.nn.functional.one_hot(torch.tensor(raw.target), NUM_CLASSES).float()
    first = len(images) - _NUM_HELD_OUT
    return Digits(images[:first], labels[:first]), Digits(images[first:], labels[first:])

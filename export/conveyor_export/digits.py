"""Handwritten digits of 8 by 8 pixels (Alpaydin and Kaynak, 1998), as scikit-learn ships them, and their names."""

from dataclasses import dataclass
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from conveyor_export.attention.decoder import BOUNDARY

SIDE = 8
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# The text of each token: the mark that a name begins after and ends with, then the letters.
SYMBOLS = [".", *sorted(set("".join(NAMES)))]
MOST_LETTERS = max(map(len, NAMES))

_DARKEST = 16
_NUM_HELD_OUT = 297  # of 1,797


@dataclass(frozen=True, slots=True)
class Digits:
    """Images `[N, 8, 8]` float32 from 0 to 1, and what each shows, `[N]` int64 from 0 to 9."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> "Digits":
        return Digits(self.images[index], self.labels[index])


def read_digits() -> tuple[Digits, Digits]:
    """Those to learn from, and those that are held out: the same ones each time, drawn at random."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32) / _DARKEST
    digits = Digits(images, torch.tensor(data.target, dtype=torch.int64))
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    return digits[order[_NUM_HELD_OUT:]], digits[order[:_NUM_HELD_OUT]]


def spell(label: int) -> list[int]:
    """The tokens of a digit's name, and the mark at its end."""
    return [*(SYMBOLS.index(letter) for letter in NAMES[label]), BOUNDARY]

"""Finds the width at which an architecture has the parameters that are asked for."""

import contextlib
from itertools import count

import torch

from conveyor_export.language_model import LanguageModel, LanguageModelConfig


def make_model(cell: str, vocabulary_size: int, width: int) -> LanguageModel:
    """One layer with an embedding of its own width, which every architecture takes.

    Raises:
        ValueError: the architecture cannot have this width.
    """
    return LanguageModel(LanguageModelConfig(vocabulary_size, width, width, num_layers=1, cell=cell))


def num_parameters(model: LanguageModel) -> int:
    """Of the whole model, embedding and projection included."""
    return sum(parameter.numel() for parameter in model.parameters())


def width_for(cell: str, vocabulary_size: int, budget: int) -> int:
    """The width whose number of parameters is nearest to the budget."""
    sizes: dict[int, int] = {}
    for width in count(1):
        with contextlib.suppress(ValueError), torch.device("meta"):
            sizes[width] = num_parameters(make_model(cell, vocabulary_size, width))
        if sizes.get(width, 0) >= budget:
            break
    return min(sizes, key=lambda width: abs(sizes[width] - budget))

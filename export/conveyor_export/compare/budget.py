"""Finds the width at which an architecture has the parameters that are asked for."""

import contextlib
from collections.abc import Iterable, Iterator
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


def check_budget(cells: Iterable[str], vocabulary_size: int, budget: int) -> None:
    """Tells of an architecture that cannot be so small, before any is trained.

    Raises:
        ValueError: even at its least width it has more parameters.
    """
    for cell in cells:
        _, least = next(_sizes(cell, vocabulary_size))
        if least > budget:
            raise ValueError(f"num_parameters: {cell} has {least:,} or more, got {budget:,}")


def width_for(cell: str, vocabulary_size: int, budget: int) -> int:
    """The width whose number of parameters is nearest to the budget."""
    sizes: dict[int, int] = {}
    for width, size in _sizes(cell, vocabulary_size):
        sizes[width] = size
        if size >= budget:
            break
    return min(sizes, key=lambda width: abs(sizes[width] - budget))


def _sizes(cell: str, vocabulary_size: int) -> Iterator[tuple[int, int]]:
    """Each width that the architecture can have and the parameters at it, from the least on."""
    for width in count(1):
        size = None
        with contextlib.suppress(ValueError), torch.device("meta"):
            size = num_parameters(make_model(cell, vocabulary_size, width))
        if size is not None:
            yield width, size

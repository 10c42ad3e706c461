"""What every recurrent cell is: one step of one layer, with its states named."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

States = dict[str, Tensor]
Shown = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class StateShape:
    """A state of one session, zero when the session opens."""

    shape: tuple[int, ...]
    dtype: str = "float32"


class Cell(nn.Module):
    """One layer's step.

    A subclass lists what it carries from step to step in `states`, and computes a step in `forward`.
    Shapes: x `[B, I]`, each state `[B, *shape]`, output `[B, H]`.
    """

    def __init__(self, input_size: int, hidden_size: int, states: dict[str, StateShape]) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.states = input_size, hidden_size, states

    def forward(self, x_BI: Tensor, states: States) -> tuple[Tensor, States]:
        """Consumes one step; returns the output and the new states."""
        raise NotImplementedError

    @property
    def shown(self) -> tuple[str, ...]:
        """What `step` shows, by name."""
        return ()

    def step(self, x_BI: Tensor, states: States) -> tuple[Tensor, States, Shown]:
        """Like `forward`, and shows what happens inside: `[B, H]` by name."""
        return (*self(x_BI, states), {})


class GatedCell(Cell):
    """A cell that shows its gates: a subclass computes a step in `step`, and names in `shown` what is to be seen."""

    def forward(self, x_BI: Tensor, states: States) -> tuple[Tensor, States]:
        y_BH, states, _ = self.step(x_BI, states)
        return y_BH, states

    def step(self, x_BI: Tensor, states: States) -> tuple[Tensor, States, Shown]:
        raise NotImplementedError


class Gate(nn.Module):
    """The affine part of a gate, `W x + R h + b`, before it is squashed: what all of the essay's cells are made of.

    Weights are uniform within 1/sqrt(H), as PyTorch has them; the bias is as given. Names are those of the papers.
    """

    def __init__(self, input_size: int, hidden_size: int, bias: float = 0.0) -> None:
        super().__init__()
        self.W = nn.Parameter(uniform(hidden_size, hidden_size, input_size))
        self.R = nn.Parameter(uniform(hidden_size, hidden_size, hidden_size))
        self.b = nn.Parameter(torch.full((hidden_size,), bias))

    def forward(self, x_BI: Tensor, h_BH: Tensor) -> Tensor:
        """`[B, H]`."""
        return linear(x_BI, self.W, self.b) + linear(h_BH, self.R)


def uniform(hidden_size: int, *shape: int) -> Tensor:
    """Numbers within 1/sqrt(H)."""
    return torch.empty(shape).uniform_(-(hidden_size**-0.5), hidden_size**-0.5)

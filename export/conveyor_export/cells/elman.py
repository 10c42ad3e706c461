"""The plain recurrent network of the essay's first pictures (Elman, 1990)."""

import torch
from torch import Tensor

from conveyor_export.cells.cell import Cell, Gate, States, StateShape


class ElmanCell(Cell):
    """`h = tanh(W x + R h + b)`: the state is the output."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, {"h": StateShape((hidden_size,))})
        self.h = Gate(input_size, hidden_size)

    def forward(self, x_BI: Tensor, states: States) -> tuple[Tensor, States]:
        h = torch.tanh(self.h(x_BI, states["h"]))
        return h, {"h": h}

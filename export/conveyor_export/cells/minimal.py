"""Recurrent networks whose gates see the input alone (Feng and others, "Were RNNs All We Needed?", 2024)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from conveyor_export.cells.cell import Cell, States, StateShape, uniform


def positive(a: Tensor) -> Tensor:
    """What the paper makes candidates with: `a + 0.5` from zero on, below it `sigmoid(a)`."""
    return torch.where(a >= 0, a + 0.5, torch.sigmoid(a))


class MinGRUCell(Cell):
    """`h = (1 - z) h + z g(W x)`, without biases and without a reset gate."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, {"h": StateShape((hidden_size,))})
        self.Wz, self.Wh = (nn.Parameter(uniform(hidden_size, hidden_size, input_size)) for _ in range(2))

    def forward(self, x_BI: Tensor, states: States) -> tuple[Tensor, States]:
        z = torch.sigmoid(linear(x_BI, self.Wz))
        h = (1 - z) * states["h"] + z * positive(linear(x_BI, self.Wh))
        return h, {"h": h}


class MinLSTMCell(Cell):
    """`h = (f h + i g(W x)) / (f + i)`: a forget and an input gate that share one whole."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, {"h": StateShape((hidden_size,))})
        self.Wf, self.Wi, self.Wh = (nn.Parameter(uniform(hidden_size, hidden_size, input_size)) for _ in range(3))

    def forward(self, x_BI: Tensor, states: States) -> tuple[Tensor, States]:
        f, i = torch.sigmoid(linear(x_BI, self.Wf)), torch.sigmoid(linear(x_BI, self.Wi))
        h = (f * states["h"] + i * positive(linear(x_BI, self.Wh))) / (f + i)
        return h, {"h": h}

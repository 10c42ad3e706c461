"""The gated recurrent unit (Cho and others, 2014), in both placements of the reset gate."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from conveyor_export.cells.cell import Cell, Gate, States, StateShape


class GRUCell(Cell):
    """The essay's GRU: the update gate `z` says how much of the candidate is written.

    The reset gate acts on the state before it is multiplied, as the essay and the paper's third version have it; with
    `reset_after`, on the product, as the first version and cuDNN have it. These are different functions.
    """

    def __init__(self, input_size: int, hidden_size: int, *, reset_after: bool = False) -> None:
        super().__init__(input_size, hidden_size, {"h": StateShape((hidden_size,))})
        self.reset_after = reset_after
        self.z, self.r, self.h = (Gate(input_size, hidden_size) for _ in range(3))
        self.recurrent_bias = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, x_BI: Tensor, states: States) -> tuple[Tensor, States]:
        h = states["h"]
        z, r = torch.sigmoid(self.z(x_BI, h)), torch.sigmoid(self.r(x_BI, h))
        if self.reset_after:
            recurrent = r * linear(h, self.h.R, self.recurrent_bias)
        else:
            recurrent = linear(r * h, self.h.R, self.recurrent_bias)
        candidate = torch.tanh(linear(x_BI, self.h.W, self.h.b) + recurrent)
        h = (1 - z) * h + z * candidate
        return h, {"h": h}

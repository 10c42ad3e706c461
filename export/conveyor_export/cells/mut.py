"""The three best of ten thousand cells that a search went through (Jozefowicz, Zaremba and Sutskever, 2015)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from conveyor_export.cells.cell import Cell, States, StateShape, uniform


class MUTCell(Cell):
    """MUT1, MUT2 or MUT3, by `kind`: relatives of the GRU. `z` says how much of the candidate is written.

    MUT2 takes the input as it is into the reset gate, so input and hidden size must be equal. MUT1 does so with the
    candidate in the paper, where they are; here the input is projected first.
    """

    def __init__(self, input_size: int, hidden_size: int, kind: int) -> None:
        if kind == 2 and input_size != hidden_size:
            raise ValueError(f"mut2: input size {input_size} differs from hidden size {hidden_size}")
        super().__init__(input_size, hidden_size, {"h": StateShape((hidden_size,))})
        self.kind = kind
        # A weight that a kind has not: MUT1's update gate does not see the state, MUT2's reset gate does not weigh x.
        absent = {1: "Rz", 2: "Wr", 3: ""}[kind]
        self.weights = nn.ParameterDict()
        for gate in "zrh":
            if absent != f"W{gate}":
                self.weights[f"W{gate}"] = nn.Parameter(uniform(hidden_size, hidden_size, input_size))
            if absent != f"R{gate}":
                self.weights[f"R{gate}"] = nn.Parameter(uniform(hidden_size, hidden_size, hidden_size))
            self.weights[f"b{gate}"] = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, x_BI: Tensor, states: States) -> tuple[Tensor, States]:
        h, p = states["h"], self.weights
        x_r = x_BI if self.kind == 2 else linear(x_BI, p["Wr"])
        r = torch.sigmoid(x_r + linear(h, p["Rr"], p["br"]))
        z = torch.sigmoid(linear(x_BI, p["Wz"], p["bz"]) + self._seen_by_z(h))
        x_h = linear(x_BI, p["Wh"])
        candidate = torch.tanh(linear(r * h, p["Rh"], p["bh"]) + (torch.tanh(x_h) if self.kind == 1 else x_h))
        h = candidate * z + h * (1 - z)
        return h, {"h": h}

    def _seen_by_z(self, h_BH: Tensor) -> Tensor:
        if self.kind == 1:
            return torch.zeros_like(h_BH)
        return linear(torch.tanh(h_BH) if self.kind == 3 else h_BH, self.weights["Rz"])

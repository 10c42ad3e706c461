"""The first LSTM with all its gates feeding one another: Greff's variant FGR."""

from itertools import product

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from conveyor_export.cells.cell import Shown, States, StateShape, uniform
from conveyor_export.cells.lstm import LSTMCell

GATES = "ifo"


class FullGateRecurrenceCell(LSTMCell):
    """An LSTM with peepholes whose gates also see what every gate was a step ago: three more states.

    `between["Rio"]` leads from the input gate to the output gate.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, peepholes=GATES)
        self.states |= {gate: StateShape((hidden_size,)) for gate in GATES}
        pairs = ("".join(pair) for pair in product(GATES, GATES))
        self.between = nn.ParameterDict(
            {f"R{pair}": nn.Parameter(uniform(hidden_size, hidden_size, hidden_size)) for pair in pairs}
        )

    def step(self, x_BI: Tensor, states: States) -> tuple[Tensor, States, Shown]:
        h, c = states["h"], states["c"]
        i, f = self._recurrent_gate("i", x_BI, c, states), self._recurrent_gate("f", x_BI, c, states)
        candidate = torch.tanh(self.gates["c"](x_BI, h))
        c = f * c + i * candidate
        o = self._recurrent_gate("o", x_BI, c, states)
        h = o * torch.tanh(c)
        return h, {"h": h, "c": c, "i": i, "f": f, "o": o}, self.show(f, i, o, candidate, c)

    def _recurrent_gate(self, name: str, x_BI: Tensor, c_BH: Tensor, states: States) -> Tensor:
        before = [linear(states[source], self.between[f"R{source}{name}"]) for source in GATES]
        gate = self.gates[name](x_BI, states["h"]) + self.peepholes[name] * c_BH
        return torch.sigmoid(gate + before[0] + before[1] + before[2])

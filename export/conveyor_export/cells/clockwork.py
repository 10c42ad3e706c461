"""The Clockwork RNN (Koutník and others, 2014): parts of the hidden layer tick at speeds of their own."""

from math import lcm

import torch
from torch import Tensor
from torch.nn.functional import linear

from conveyor_export.cells.cell import Cell, Gate, States, StateShape


class ClockworkCell(Cell):
    """A tanh layer in equal modules; module `j` changes at every step that its period divides.

    A module reads those that are as slow or slower, never a faster one. Each session counts its own steps, modulo the
    least common multiple of the periods; at step 0 every module ticks. Without `periods` there are up to four modules
    with the periods 1, 2, 4 and 8.
    """

    def __init__(self, input_size: int, hidden_size: int, periods: tuple[int, ...] = ()) -> None:
        super().__init__(input_size, hidden_size, {"h": StateShape((hidden_size,)), "t": StateShape((), "int64")})
        periods = periods or tuple(2**n for n in range(4) if hidden_size % 2**n == 0)
        if hidden_size % len(periods):
            raise ValueError(f"clockwork: hidden size {hidden_size} cannot be cut into {len(periods)} equal modules")
        self.cycle = lcm(*periods)
        self.h = Gate(input_size, hidden_size)
        of_unit = torch.tensor(periods).repeat_interleave(hidden_size // len(periods))
        self.period: Tensor
        self.register_buffer("period", of_unit, persistent=False)
        self.reads: Tensor  # row reads column
        self.register_buffer("reads", (of_unit[:, None] <= of_unit[None, :]).float(), persistent=False)

    def forward(self, x_BI: Tensor, states: States) -> tuple[Tensor, States]:
        h, t = states["h"], states["t"]
        new = torch.tanh(linear(x_BI, self.h.W, self.h.b) + linear(h, self.h.R * self.reads))
        ticks = torch.remainder(t[:, None], self.period) == 0
        h = torch.where(ticks, new, h)
        return h, {"h": h, "t": torch.remainder(t + 1, self.cycle)}

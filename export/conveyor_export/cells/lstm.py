"""The LSTM as the essay writes it, and what others left out of it, coupled or let look at the cell state.

Hochreiter and Schmidhuber (1997) had no forget gate; Gers and others added it in 2000, and peepholes. The variants are
those of Greff and others, "LSTM: A Search Space Odyssey" (2015), whose vanilla LSTM has peepholes.
"""

import torch
from torch import Tensor, nn

from conveyor_export.cells.cell import Gate, GatedCell, Shown, States, StateShape

SHOWN = ("forget", "input", "output", "candidate", "cell")  # a gate's letter is its first
FORGET_BIAS = 1.0  # remember at first (Jozefowicz and others, 2015)


class LSTMCell(GatedCell):
    """The essay's LSTM; options make its variants.

    `peepholes` names the gates, of `i`, `f` and `o`, that look at the cell state: the output gate at the new one.
    `coupled` is the gate of `i` and `f` that decides for both: the other is one minus it. Of the gates in `open_gates`
    there are none: they are always one, and not shown. `squash_input` and `squash_output` are the tanh of the candidate
    and of the cell state.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        peepholes: str = "",
        coupled: str = "",
        open_gates: str = "",
        squash_input: bool = True,
        squash_output: bool = True,
    ) -> None:
        shape = StateShape((hidden_size,))
        super().__init__(input_size, hidden_size, {"h": shape, "c": shape})
        self.coupled, self.open_gates = coupled, open_gates
        self.squash_input, self.squash_output = squash_input, squash_output
        decided = {"i": "f", "f": "i"}.get(coupled, "")  # by the other
        # The input gate of a coupled pair starts where the forget gate would keep as much.
        biases = {"i": -FORGET_BIAS if coupled == "i" else 0.0, "f": FORGET_BIAS, "c": 0.0, "o": 0.0}
        self.gates = nn.ModuleDict(
            {g: Gate(input_size, hidden_size, biases[g]) for g in "ifco" if g not in open_gates + decided}
        )
        self.peepholes = nn.ParameterDict(
            {g: nn.Parameter(torch.zeros(hidden_size)) for g in peepholes if g in self.gates}
        )

    @property
    def is_plain(self) -> bool:
        """True of the essay's own: three gates that look at input and output alone, and both squashings."""
        return len(self.gates) == 4 and not self.peepholes and self.squash_input and self.squash_output

    @property
    def shown(self) -> tuple[str, ...]:
        return tuple(name for name in SHOWN if name[0] not in self.open_gates)

    def step(self, x_BI: Tensor, states: States) -> tuple[Tensor, States, Shown]:
        h, c = states["h"], states["c"]
        i, f = self.gate("i", x_BI, h, c), self.gate("f", x_BI, h, c)
        if self.coupled == "f":
            i = 1 - f
        elif self.coupled == "i":
            f = 1 - i
        candidate = self.gates["c"](x_BI, h)
        candidate = torch.tanh(candidate) if self.squash_input else candidate
        c = f * c + i * candidate
        o = self.gate("o", x_BI, h, c)
        h = o * (torch.tanh(c) if self.squash_output else c)
        return h, {"h": h, "c": c}, self.show(f, i, o, candidate, c)

    def show(self, *values: Tensor) -> Shown:
        """Names forget, input and output gate, candidate and cell state, but for gates that are not there."""
        named = dict(zip(SHOWN, values, strict=True))
        return {name: named[name] for name in self.shown}

    def gate(self, name: str, x_BI: Tensor, h_BH: Tensor, c_BH: Tensor) -> Tensor:
        """One of `i`, `f` and `o`, `[B, H]`."""
        if name not in self.gates:
            return torch.ones_like(h_BH)
        gate: Tensor = self.gates[name](x_BI, h_BH)
        return torch.sigmoid(gate + self.peepholes[name] * c_BH if name in self.peepholes else gate)

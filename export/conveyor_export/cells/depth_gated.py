"""The depth-gated LSTM (Yao and others, 2015): a layer's cell state also takes from the one below, through a gate."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from conveyor_export.cells.cell import GatedCell, Shown, States, StateShape, uniform
from conveyor_export.cells.lstm import SHOWN, LSTMCell

DEPTH_BIAS = -1.0  # close to a plain stack at first


class DepthGate(nn.Module):
    """`sigmoid(W x + b + own c + lower c)` between two layers; it sees no hidden state."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.W = nn.Parameter(uniform(hidden_size, hidden_size, hidden_size))
        self.b = nn.Parameter(torch.full((hidden_size,), DEPTH_BIAS))
        self.own = nn.Parameter(torch.zeros(hidden_size))
        self.lower = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, x_BH: Tensor, own_c_BH: Tensor, lower_c_BH: Tensor) -> Tensor:
        """How much of the lower cell state comes up, `[B, H]`."""
        return torch.sigmoid(linear(x_BH, self.W, self.b) + self.own * own_c_BH + self.lower * lower_c_BH)


class DepthGatedLSTM(GatedCell):
    """A stack of LSTM layers with peepholes on all gates, and a depth gate below each but the first.

    What goes up is the lower layer's cell state of the same step: it is no state of its own.
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 2, dropout: float = 0.0) -> None:
        shape = StateShape((hidden_size,))
        super().__init__(
            input_size, hidden_size, {f"{name}{layer}": shape for layer in range(num_layers) for name in "hc"}
        )
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.layers = nn.ModuleList(LSTMCell(size, hidden_size, peepholes="ifo") for size in sizes)
        self.dropout = nn.Dropout(dropout)
        self.depth_gates = nn.ModuleList(DepthGate(hidden_size) for _ in sizes[1:])

    @property
    def shown(self) -> tuple[str, ...]:
        return tuple(f"{name}{number}" for number in range(len(self.layers)) for name in SHOWN)

    def step(self, x_BI: Tensor, states: States) -> tuple[Tensor, States, Shown]:
        x, lower_c, new, shown = x_BI, None, dict[str, Tensor](), dict[str, Tensor]()
        for number, layer in enumerate(self.layers):
            h, c = states[f"h{number}"], states[f"c{number}"]
            from_below = None if lower_c is None else self.depth_gates[number - 1](x, c, lower_c) * lower_c
            x, lower_c, inside = self._step_layer(layer, self.dropout(x) if number else x, h, c, from_below)
            new |= {f"h{number}": x, f"c{number}": lower_c}
            shown |= {f"{name}{number}": value for name, value in inside.items()}
        return x, new, shown

    @staticmethod
    def _step_layer(
        layer: nn.Module, x_BI: Tensor, h_BH: Tensor, c_BH: Tensor, from_below: Tensor | None
    ) -> tuple[Tensor, Tensor, Shown]:
        assert isinstance(layer, LSTMCell)  # noqa: S101  # a ModuleList forgets what is in it
        i, f = layer.gate("i", x_BI, h_BH, c_BH), layer.gate("f", x_BI, h_BH, c_BH)
        candidate = torch.tanh(layer.gates["c"](x_BI, h_BH))
        c = f * c_BH + i * candidate
        if from_below is not None:
            c = c + from_below
        o = layer.gate("o", x_BI, h_BH, c)
        h = o * torch.tanh(c)
        return h, c, layer.show(f, i, o, candidate, c)

"""Grid LSTM (Kalchbrenner, Danihelka and Graves, 2015) of two dimensions: along the sequence, and up the layers."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from conveyor_export.cells.cell import Cell, States, StateShape, uniform
from conveyor_export.cells.lstm import FORGET_BIAS

GATES = "ufoc"  # update, forget and output gate, candidate


class GridLSTM(nn.Module):
    """One LSTM of a block: reads the block's hidden vectors together, and has a memory of its own."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.W = nn.ParameterDict({gate: nn.Parameter(uniform(size, size, 2 * size)) for gate in GATES})
        biases = {gate: FORGET_BIAS if gate == "f" else 0.0 for gate in GATES}
        self.b = nn.ParameterDict({gate: nn.Parameter(torch.full((size,), bias)) for gate, bias in biases.items()})

    def forward(self, depth_BD: Tensor, time_BD: Tensor, memory_BD: Tensor) -> tuple[Tensor, Tensor]:
        """The new hidden vector and memory, `[B, D]` each."""
        hidden = torch.cat([depth_BD, time_BD], 1)
        u, f, o, candidate = (linear(hidden, self.W[gate], self.b[gate]) for gate in GATES)
        memory = torch.sigmoid(f) * memory_BD + torch.sigmoid(u) * torch.tanh(candidate)
        return torch.sigmoid(o) * torch.tanh(memory), memory


class GridLSTMLayers(Cell):
    """Layers of blocks, each with an LSTM along time and one along depth.

    Only the pair along time, `h` and `m` of each layer, is carried from step to step; the pair along depth begins at
    the input, projected into both, and ends at the top as the output. Time goes first: what depth reads of it is new.
    The paper prints the squashing of the output the other way round; both public implementations have it as here.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 2,
        dropout: float = 0.0,
        *,
        time_first: bool = True,
    ) -> None:
        shape = StateShape((hidden_size,))
        states = {f"{name}{layer}": shape for layer in range(num_layers) for name in "hm"}
        super().__init__(input_size, hidden_size, states)
        self.num_layers, self.time_first = num_layers, time_first
        self.to_hidden = nn.Parameter(uniform(hidden_size, hidden_size, input_size))
        self.to_memory = nn.Parameter(uniform(hidden_size, hidden_size, input_size))
        self.along_time = nn.ModuleList(GridLSTM(hidden_size) for _ in range(num_layers))
        self.along_depth = nn.ModuleList(GridLSTM(hidden_size) for _ in range(num_layers))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BI: Tensor, states: States) -> tuple[Tensor, States]:
        depth, depth_memory, new = linear(x_BI, self.to_hidden), linear(x_BI, self.to_memory), dict[str, Tensor]()
        for layer in range(self.num_layers):
            depth = self.dropout(depth) if layer else depth
            old, memory = states[f"h{layer}"], states[f"m{layer}"]
            time, memory = self.along_time[layer](depth, old, memory)
            depth, depth_memory = self.along_depth[layer](depth, time if self.time_first else old, depth_memory)
            new |= {f"h{layer}": time, f"m{layer}": memory}
        return depth, new

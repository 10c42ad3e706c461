"""Cells above each other, and step after step: what a model puts in the place of PyTorch's own recurrent layers."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from conveyor.signature import Axis, StateSpec
from conveyor_export.cells.cell import Cell, GatedCell, Shown, States


class Stack(GatedCell):
    """Layers of one kind; each reads what the one below gives at the same step.

    States, and what the layers show, are named with their layer.
    """

    def __init__(
        self, make: Callable[[int, int], Cell], input_size: int, hidden_size: int, num_layers: int, dropout: float = 0.0
    ) -> None:
        cells = [make(input_size if layer == 0 else hidden_size, hidden_size) for layer in range(num_layers)]
        states = {f"{name}{layer}": shape for layer, cell in enumerate(cells) for name, shape in cell.states.items()}
        super().__init__(input_size, hidden_size, states)
        self.layers = nn.ModuleList(cells)
        self.dropout = nn.Dropout(dropout)
        self._names = [list(cell.states) for cell in cells]

    @property
    def shown(self) -> tuple[str, ...]:
        return tuple(f"{name}{number}" for number, layer in enumerate(self.layers) for name in _cell(layer).shown)

    def step(self, x_BI: Tensor, states: States) -> tuple[Tensor, States, Shown]:
        new, shown = dict[str, Tensor](), dict[str, Tensor]()
        for number, (layer, names) in enumerate(zip(self.layers, self._names, strict=True)):
            own = {name: states[f"{name}{number}"] for name in names}
            x_BI, after, inside = _cell(layer).step(self.dropout(x_BI) if number else x_BI, own)
            new |= {f"{name}{number}": state for name, state in after.items()}
            shown |= {f"{name}{number}": value for name, value in inside.items()}
        return x_BI, new, shown


def _cell(layer: nn.Module) -> Cell:
    assert isinstance(layer, Cell)  # noqa: S101  # a ModuleList forgets what is in it
    return layer


class Steps(nn.Module):
    """Takes a cell through the steps of `[T, B, I]`. Exported, it is a graph of one step, as all of them are alike."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell

    @property
    def state_specs(self) -> tuple[StateSpec, ...]:
        """The cell's states, for a signature."""
        return tuple(
            StateSpec(name, state.dtype, state.shape, Axis(batch=0), output=f"{name}_out")
            for name, state in self.cell.states.items()
        )

    def forward(self, x_TBI: Tensor, states: States) -> tuple[Tensor, States]:
        """Returns the outputs `[T, B, H]` and the states after the last step."""
        outputs = []
        for x_BI in x_TBI.unbind():
            y_BH, states = self.cell(x_BI, states)
            outputs.append(y_BH)
        return torch.stack(outputs), states

"""What must hold between the cells, and with PyTorch's own layers, whatever the weights."""

import pytest
import torch
from torch import Tensor, nn

from conveyor_export.cells.cell import Cell
from conveyor_export.cells.clockwork import ClockworkCell
from conveyor_export.cells.depth_gated import DepthGatedLSTM
from conveyor_export.cells.elman import ElmanCell
from conveyor_export.cells.full_gate_recurrence import FullGateRecurrenceCell
from conveyor_export.cells.gru import GRUCell
from conveyor_export.cells.layers import Stack, Steps
from conveyor_export.cells.lstm import LSTMCell
from conveyor_export.cells.mut import MUTCell
from tests.export.cells.stacked import zeros

SIZE, NUM_STEPS = 6, 9


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randomise(module: nn.Module) -> None:
    """Gives every weight a value that matters."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.7)


@torch.no_grad()
def outputs(cell: Cell, x: Tensor) -> Tensor:
    """The outputs `[T, B, H]` from zero states."""
    return Steps(cell)(x, zeros(cell, x.shape[1]))[0]


def inputs() -> Tensor:
    """A few steps of two sessions."""
    return torch.randn(NUM_STEPS, 2, SIZE)


def copy(target: nn.Module, source: nn.Module) -> None:
    """Gives `target` the weights that `source` has under the same names."""
    target.load_state_dict(source.state_dict(), strict=False)


@pytest.mark.parametrize(
    ("cell", "layer", "order", "negated"),
    [
        (ElmanCell(SIZE, SIZE), nn.RNN(SIZE, SIZE), "h", ""),
        (LSTMCell(SIZE, SIZE), nn.LSTM(SIZE, SIZE), "ifco", ""),
        (GRUCell(SIZE, SIZE, reset_after=True), nn.GRU(SIZE, SIZE), "rzh", "z"),
    ],
)
@torch.no_grad()
def test_plain_cells_are_pytorchs_layers(cell: Cell, layer: nn.RNNBase, order: str, negated: str) -> None:
    """With the layer's weights a cell gives the layer's outputs; PyTorch's GRU keeps where the essay's writes."""
    randomise(layer)
    signs = torch.cat([torch.full((SIZE,), -1.0 if gate in negated else 1.0) for gate in order])
    parts = {
        "W": layer.weight_ih_l0 * signs[:, None],
        "R": layer.weight_hh_l0 * signs[:, None],
        "b": layer.bias_ih_l0 * signs,
        "c": layer.bias_hh_l0 * signs,
    }
    for place, name in enumerate(order):
        gate = cell.gates[name] if isinstance(cell, LSTMCell) else getattr(cell, name)
        w, r, b, c = (part[place * SIZE : (place + 1) * SIZE] for part in parts.values())
        is_apart = isinstance(cell, GRUCell) and name == "h"  # its recurrent bias is inside the reset gate
        gate.W.data, gate.R.data, gate.b.data = w, r, b if is_apart else b + c
        if is_apart:
            cell.recurrent_bias.data = c
    x = inputs()

    torch.testing.assert_close(outputs(cell, x), layer(x)[0], atol=1e-5, rtol=0)


def test_without_recurrence_between_gates_it_is_vanilla() -> None:
    """FGR with zeros between its gates is the peephole LSTM."""
    cell, vanilla = FullGateRecurrenceCell(SIZE, SIZE), LSTMCell(SIZE, SIZE, peepholes="ifo")
    randomise(cell)
    for weight in cell.between.values():
        nn.init.zeros_(weight)
    copy(vanilla, cell)
    x = inputs()

    torch.testing.assert_close(outputs(cell, x), outputs(vanilla, x))


def test_an_open_gate_is_one_that_saturates() -> None:
    """An LSTM without a forget gate is one whose forget gate is always one."""
    open_cell, cell = LSTMCell(SIZE, SIZE, open_gates="f"), LSTMCell(SIZE, SIZE)
    randomise(open_cell)
    copy(cell, open_cell)
    nn.init.zeros_(cell.gates["f"].W)
    nn.init.zeros_(cell.gates["f"].R)
    nn.init.constant_(cell.gates["f"].b, 30.0)
    x = inputs()

    torch.testing.assert_close(outputs(open_cell, x), outputs(cell, x))


def test_either_gate_of_a_coupled_pair_can_decide() -> None:
    """`i = 1 - f` with the weights negated is `f = 1 - i`."""
    by_forget, by_input = LSTMCell(SIZE, SIZE, coupled="f"), LSTMCell(SIZE, SIZE, coupled="i")
    randomise(by_forget)
    copy(by_input, by_forget)
    for kind in "WRb":
        getattr(by_input.gates["i"], kind).data = -getattr(by_forget.gates["f"], kind).data
    x = inputs()

    torch.testing.assert_close(outputs(by_forget, x), outputs(by_input, x))


def test_closed_depth_gates_leave_a_stack() -> None:
    """With its depth gates shut a depth-gated LSTM is a stack of peephole LSTMs."""
    gated = DepthGatedLSTM(SIZE, SIZE, 3)
    randomise(gated)
    for gate in gated.depth_gates:
        for parameter in gate.parameters():
            nn.init.zeros_(parameter)
        nn.init.constant_(gate.b, -60.0)
    stack = Stack(lambda i, h: LSTMCell(i, h, peepholes="ifo"), SIZE, SIZE, 3)
    copy(stack, gated)
    x = inputs()

    torch.testing.assert_close(outputs(gated, x), outputs(stack, x))


def test_one_clock_of_period_one_is_elmans() -> None:
    """A Clockwork RNN whose only module ticks at every step is the plain network."""
    clockwork, elman = ClockworkCell(SIZE, SIZE, (1,)), ElmanCell(SIZE, SIZE)
    randomise(elman)
    copy(clockwork, elman)
    x = inputs()

    torch.testing.assert_close(outputs(clockwork, x), outputs(elman, x))


def test_clocks_repeat_after_their_common_multiple() -> None:
    """A count that has gone round once ticks as one that begins; others do not."""
    cell, x = ClockworkCell(SIZE, SIZE, (2, 3)), torch.randn(1, SIZE)
    h = torch.randn(1, SIZE)

    def step(t: int) -> Tensor:
        return cell(x, {"h": h, "t": torch.tensor([t])})[0]

    torch.testing.assert_close(step(0), step(6))
    assert not torch.allclose(step(0), step(1))
    assert cell(x, {"h": h, "t": torch.tensor([5])})[1]["t"].tolist() == [0]


def test_mut2_with_weights_of_one_is_a_gru() -> None:
    """The second mutation is the essay's GRU whose reset gate takes the input as it is."""
    mut, gru = MUTCell(SIZE, SIZE, 2), GRUCell(SIZE, SIZE)
    randomise(mut)
    for name in "zrh":
        gate = getattr(gru, name)
        gate.R.data, gate.b.data = mut.weights[f"R{name}"].data, mut.weights[f"b{name}"].data
        gate.W.data = torch.eye(SIZE) if name == "r" else mut.weights[f"W{name}"].data
    x = inputs()

    torch.testing.assert_close(outputs(mut, x), outputs(gru, x))

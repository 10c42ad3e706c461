"""xLSTM's cells: against an oracle's values, in batches of fresh and warm sessions, and exported."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from conveyor_export.cells.cell import Cell
from conveyor_export.cells.xlstm import MLSTMCell, SLSTMCell, step_mlstm
from tests.export.cells.stacked import check_export, check_mixed_batch, finite_gradients, zeros
from tests.export.cells.test_golden import H, I, fill, gates, last_output, of_gates, set_parameters

EXTREME = -120.0  # its exponential is zero in float32, that of its negative is infinite


def test_five_steps_of_slstm() -> None:
    """A cell with given weights gives the oracle's output after five steps."""
    cell = SLSTMCell(I, H)
    set_parameters(of_gates(cell, "ifzo"), gates("ifzo"))

    assert last_output(cell) == pytest.approx([0.002308, 0.193184, 0.203211, 0.101395], abs=1e-6)


def test_five_steps_of_mlstm() -> None:
    """Given queries, keys, values and gates, two heads give the oracle's output after five steps."""
    q, k, v = (fill((5, 2, 2, 2), place, 1) for place in (1, 2, 3))
    i, f = fill((5, 2, 2), 4, 1), fill((5, 2, 2), 5, 1) + 2
    C, n, m = fill((2, 2, 2, 2), 1, 0), fill((2, 2, 2), 1, 0), fill((2, 2), 1, 0)
    for step in range(5):
        found, C, n, m = step_mlstm(q[step], k[step], v[step], i[step], f[step], C, n, m, epsilon=0)

    assert found[0].flatten().tolist() == pytest.approx([0.081199, 0.353658, 0.541626, -0.068167], abs=1e-6)


def test_an_mlstm_session_reads_what_it_wrote() -> None:
    """After the first step, a head whose query and key agree gives the value through the output gate."""
    cell = MLSTMCell(I, H, num_heads=2).double()
    x = fill((2, I), 0, 1)
    cell.k.load_state_dict({name: 5 * value for name, value in cell.q.state_dict().items()})
    cell.i.bias.data.fill_(10)

    y, _ = cell(x, zeros_double(cell))

    torch.testing.assert_close(y, torch.sigmoid(cell.o(x)) * cell.v(x), rtol=1e-3, atol=1e-3)


def zeros_double(cell: Cell) -> dict[str, Tensor]:
    return {name: state.double() for name, state in zeros(cell, 2).items()}


@pytest.mark.parametrize(("hidden_size", "num_heads"), [(8, 4), (6, 2), (5, 1)])
def test_heads_divide_the_hidden_size(hidden_size: int, num_heads: int) -> None:
    """Without a number of heads there are four, two or one, and the states have their shapes."""
    size = hidden_size // num_heads
    shapes = {name: state.shape for name, state in MLSTMCell(I, hidden_size).states.items()}

    assert shapes == {"C": (num_heads, size, size), "n": (num_heads, size), "m": (num_heads,)}
    with pytest.raises(ValueError, match="mlstm: hidden size 8 cannot be cut into 3 equal heads"):
        MLSTMCell(I, 8, num_heads=3)


def with_extreme_input_gate(make: Callable[[int, int], Cell]) -> tuple[Cell, Tensor]:
    """A cell whose input gate is as the first feature says, and a batch in which that is extreme, for some rows."""
    torch.manual_seed(0)
    cell = make(I, H)
    weight = cell.i.W if isinstance(cell, SLSTMCell) else cell.i.weight
    weight.data[:, 0] = 1
    x = torch.randn(8, I)
    x[2:6, 0] = EXTREME
    x[6:, 0] = -EXTREME
    return cell, x


@pytest.mark.parametrize("make", [SLSTMCell, MLSTMCell])
def test_fresh_and_warm_sessions_share_a_batch(make: Callable[[int, int], Cell]) -> None:
    """Each row gets what it gets alone, and a number, whatever its input gate says."""
    check_mixed_batch(*with_extreme_input_gate(make))


@pytest.mark.parametrize("make", [SLSTMCell, MLSTMCell])
def test_an_extreme_input_gate_can_be_trained(make: Callable[[int, int], Cell]) -> None:
    """All gradients are numbers."""
    assert finite_gradients(*with_extreme_input_gate(make))


def test_a_fresh_slstm_session_writes_whatever_its_input_gate_says() -> None:
    """At the first step the output is `sigmoid(o) tanh(z)`: the normaliser cancels the input gate."""
    cell, x = with_extreme_input_gate(SLSTMCell)
    assert isinstance(cell, SLSTMCell)
    states = zeros(cell, len(x))

    y, after = cell(x, states)

    torch.testing.assert_close(y, torch.sigmoid(cell.o(x, states["h"])) * torch.tanh(cell.z(x, states["h"])))
    assert after["n"].tolist() == torch.ones(len(x), H).tolist()


def test_the_normaliser_stays_at_or_above_one() -> None:
    """So the bound under the division changes no session's output, and no warm session is taken for a fresh one."""
    cell, x = with_extreme_input_gate(SLSTMCell)
    states = zeros(cell, len(x))
    for step in range(50):
        _, states = cell(x.roll(step, 0), states)
        assert states["n"].min() >= 1


@pytest.mark.parametrize("make", [SLSTMCell, MLSTMCell])
def test_export(make: Callable[[int, int], Cell], tmp_path: Path) -> None:
    """Two layers are exported with proof, as a graph that a GPU takes whole."""
    check_export(make, tmp_path / "model.onnx")


@pytest.mark.parametrize("make", [SLSTMCell, MLSTMCell])
def test_export_of_gates_that_are_all_but_shut(make: Callable[[int, int], Cell], tmp_path: Path) -> None:
    """The graph weighs two tiny gates against each other as PyTorch does, where a sigmoid's digits have ended."""

    def make_shut(input_size: int, hidden_size: int) -> Cell:
        cell = make(input_size, hidden_size)
        for gate, value in (("f", -30.0), ("i", -28.0)):
            bias = cell.get_parameter(f"{gate}.b" if make is SLSTMCell else f"{gate}.bias")
            bias.data.fill_(value)
        return cell

    check_export(make_shut, tmp_path / "model.onnx")

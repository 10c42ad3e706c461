"""Each cell's equations, against values that a NumPy oracle of the papers' equations gives in float64."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conveyor_export.cells.cell import Cell
from conveyor_export.cells.clockwork import ClockworkCell
from conveyor_export.cells.depth_gated import DepthGatedLSTM
from conveyor_export.cells.elman import ElmanCell
from conveyor_export.cells.full_gate_recurrence import GATES, FullGateRecurrenceCell
from conveyor_export.cells.grid import GATES as GRID_GATES
from conveyor_export.cells.grid import GridLSTM, GridLSTMLayers
from conveyor_export.cells.gru import GRUCell
from conveyor_export.cells.lstm import LSTMCell
from conveyor_export.cells.minimal import MinGRUCell, MinLSTMCell
from conveyor_export.cells.mut import MUTCell

I, H = 3, 4  # noqa: E741  # the papers' letters


def fill(shape: tuple[int, ...], place: int, scale: float = 0.5) -> Tensor:
    """The test values of the tensor at a place, from 1, of a cell's list: `s sin(1 + 0.7 n + 1.3 k)`."""
    n = torch.arange(math.prod(shape), dtype=torch.float64)
    return (scale * torch.sin(1 + 0.7 * n + 1.3 * place)).reshape(shape)


def gates(names: str) -> list[str]:
    """The list of a cell of affine gates: weights of the input, of the state, bias."""
    return [f"{kind}{gate}" for gate in names for kind in "WRb"]


def of_lstm(cell: LSTMCell) -> dict[str, nn.Parameter]:
    """An LSTM's parameters by their names in the list; what a variant lacks keeps its place there."""
    found = {f"{kind}{g}": getattr(gate, kind) for g, gate in cell.gates.items() for kind in "WRb"}
    return found | {f"p{g}": parameter for g, parameter in cell.peepholes.items()}


def of_gates(cell: Any, names: str) -> dict[str, nn.Parameter]:
    """Those of a cell that has its gates as attributes."""
    return {f"{kind}{g}": getattr(getattr(cell, g), kind) for g in names for kind in "WRb"}


LSTM_LIST = [*gates("ifco"), "pi", "pf", "po"]
FGR_LIST = [*LSTM_LIST, *(f"R{source}{target}" for target in GATES for source in GATES)]


def of_fgr(cell: FullGateRecurrenceCell) -> dict[str, nn.Parameter]:
    return of_lstm(cell) | dict(cell.between.items())


def of_gru(cell: GRUCell) -> dict[str, nn.Parameter]:
    return of_gates(cell, "zrh") | {"ch": cell.recurrent_bias}


def of_weights(cell: MUTCell) -> dict[str, nn.Parameter]:
    return dict(cell.weights.items())


def of_minimal(cell: nn.Module) -> dict[str, nn.Parameter]:
    return dict(cell.named_parameters())


def set_parameters(found: dict[str, nn.Parameter], names: list[str]) -> None:
    """Gives every parameter the values of its place in the list; none may be left out."""
    assert found.keys() <= set(names)
    for name, parameter in found.items():
        parameter.data = fill(tuple(parameter.shape), 1 + names.index(name))


def last_output(cell: Cell, input_size: int = I) -> list[float]:
    """The first of two sessions' output after five steps from zeros."""
    cell.double()
    states = {n: torch.zeros(2, *s.shape, dtype=_dtype(s.dtype)) for n, s in cell.states.items()}
    for x in fill((5, 2, input_size), 0, 1):
        y, states = cell(x, states)
        assert states.keys() == cell.states.keys()
    return y[0].tolist()


def _dtype(name: str) -> torch.dtype:
    return torch.float64 if name == "float32" else getattr(torch, name)


Parameters = Callable[[Any], dict[str, nn.Parameter]]
CASES: list[tuple[Cell, Parameters, list[str], list[float]]] = [
    (ElmanCell(I, H), lambda c: of_gates(c, "h"), gates("h"), [-0.742042, 0.377460, -0.414517, 0.390396]),
    (LSTMCell(I, H), of_lstm, LSTM_LIST, [0.006095, 0.154674, 0.139141, 0.103090]),
    (LSTMCell(I, H, peepholes="ifo"), of_lstm, LSTM_LIST, [0.010363, 0.170645, 0.164530, 0.098913]),
    (LSTMCell(I, H, peepholes="o"), of_lstm, LSTM_LIST, [0.005418, 0.167360, 0.139941, 0.098383]),
    (LSTMCell(I, H, coupled="f"), of_lstm, LSTM_LIST, [0.046396, 0.198505, 0.157984, 0.153305]),
    (LSTMCell(I, H, coupled="f", peepholes="ifo"), of_lstm, LSTM_LIST, [0.052229, 0.218771, 0.185766, 0.147258]),
    (LSTMCell(I, H, coupled="i", peepholes="ifo"), of_lstm, LSTM_LIST, [-0.002963, 0.173947, 0.134395, 0.063647]),
    (LSTMCell(I, H, open_gates="i", peepholes="ifo"), of_lstm, LSTM_LIST, [0.068704, 0.381114, 0.224579, 0.196128]),
    (LSTMCell(I, H, open_gates="f", peepholes="ifo"), of_lstm, LSTM_LIST, [-0.022657, 0.359921, 0.387799, 0.161230]),
    (LSTMCell(I, H, open_gates="o", peepholes="ifo"), of_lstm, LSTM_LIST, [0.047202, 0.413010, 0.276050, 0.385617]),
    (LSTMCell(I, H, squash_input=False, peepholes="ifo"), of_lstm, LSTM_LIST, [0.009098, 0.197153, 0.242497, 0.142593]),
    (
        LSTMCell(I, H, squash_output=False, peepholes="ifo"),
        of_lstm,
        LSTM_LIST,
        [0.010377, 0.181034, 0.169628, 0.103301],
    ),
    (FullGateRecurrenceCell(I, H), of_fgr, FGR_LIST, [-0.009716, 0.210996, 0.162947, 0.181233]),
    (GRUCell(I, H), of_gru, [*gates("zrh"), "ch"], [0.182884, 0.722511, 0.340489, 0.212895]),
    (GRUCell(I, H, reset_after=True), of_gru, [*gates("zrh"), "ch"], [0.123556, 0.550704, 0.297464, 0.227785]),
    (MUTCell(I, H, 1), of_weights, gates("zrh"), [0.018632, 0.392180, 0.288520, 0.351347]),
    (MUTCell(H, H, 2), of_weights, gates("zrh"), [-0.067603, -0.044171, -0.045581, 0.481796]),
    (MUTCell(I, H, 3), of_weights, gates("zrh"), [-0.026703, 0.415935, 0.305202, 0.265701]),
    (ClockworkCell(I, H, (1, 2)), lambda c: of_gates(c, "h"), gates("h"), [-0.287144, -0.253716, -0.029460, -0.028930]),
    (ClockworkCell(I, H, (1, 3)), lambda c: of_gates(c, "h"), gates("h"), [-0.700449, 0.364010, 0.270214, 0.768761]),
    (MinGRUCell(I, H), of_minimal, ["Wz", "Wh"], [0.595445, 0.710504, 0.770372, 0.600958]),
    (MinLSTMCell(I, H), of_minimal, ["Wf", "Wi", "Wh"], [0.835628, 0.831535, 0.515499, 0.833680]),
]


@pytest.mark.parametrize(("cell", "parameters", "names", "expected"), CASES)
def test_five_steps(cell: Cell, parameters: Parameters, names: list[str], expected: list[float]) -> None:
    """A cell with given weights gives the oracle's output after five steps."""
    set_parameters(parameters(cell), names)

    assert last_output(cell, cell.input_size) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("time_first", "expected"),
    [
        (True, [-0.148438, 0.019525, -0.014115, 0.137744]),
        (False, [-0.149785, 0.014741, -0.016799, 0.138248]),
    ],
)
def test_five_steps_of_a_grid(time_first: bool, expected: list[float]) -> None:
    """Two layers of a grid give the oracle's output, whether depth reads the new hidden vector of time or the old."""
    grid = GridLSTMLayers(I, H, 2, time_first=time_first)
    grid.to_hidden.data, grid.to_memory.data = fill((H, I), 1), fill((H, I), 2)
    for block in (*grid.along_time, *grid.along_depth):
        assert isinstance(block, GridLSTM)
        names = [f"{kind}{gate}" for gate in GRID_GATES for kind in "Wb"]
        set_parameters({f"{kind}{g}": getattr(block, kind)[g] for g in GRID_GATES for kind in "Wb"}, names)

    assert last_output(grid) == pytest.approx(expected, abs=1e-6)


def test_five_steps_of_a_depth_gated_stack() -> None:
    """Two layers with a depth gate between them give the oracle's output."""
    stack = DepthGatedLSTM(I, H, 2)
    for layer in stack.layers:
        assert isinstance(layer, LSTMCell)
        set_parameters(of_lstm(layer), LSTM_LIST)
    gate = stack.depth_gates[0]
    depth = {"Wd": gate.W, "bd": gate.b, "wcd": gate.own, "wld": gate.lower}
    set_parameters(depth, [*LSTM_LIST, "Wd", "bd", "wcd", "wld"])

    assert last_output(stack) == pytest.approx([0.002302, 0.264652, 0.272603, 0.265092], abs=1e-6)

"""RWKV-7: against an oracle's values, in batches of fresh and warm sessions, and exported."""

from pathlib import Path

import pytest
import torch

from conveyor_export.cells.rwkv import RWKV7Cell, step_rwkv7
from tests.export.cells.stacked import check_export, check_mixed_batch, finite_gradients, zeros
from tests.export.cells.test_golden import H, I, fill


def make(input_size: int = I, hidden_size: int = H) -> RWKV7Cell:
    """A cell with random weights: at first both of its halves add nothing."""
    torch.manual_seed(0)
    cell = RWKV7Cell(input_size, hidden_size)
    for parameter in cell.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return cell


def test_five_steps() -> None:
    """Given inputs, two heads give the oracle's output after five steps."""
    r, k, v, w, a, kappa = (fill((5, 2, 2, 2), place, 1) for place in (1, 2, 3, 6, 7, 8))
    S = torch.zeros(2, 2, 2, 2, dtype=torch.float64)
    for step in range(5):
        y, S = step_rwkv7(r[step], k[step], v[step], w[step], torch.sigmoid(a[step]), kappa[step], S)

    assert y[0].flatten().tolist() == pytest.approx([-0.005187, -0.050898, -0.323515, -0.728488], abs=1e-6)


def test_a_new_layer_passes_its_input_on() -> None:
    """As the author has it, both halves begin with an output of zero beside the residual connection."""
    cell, x = RWKV7Cell(8, 8), torch.randn(2, 8)
    y, states = cell(x, zeros(cell, 2))

    torch.testing.assert_close(y, x)
    torch.testing.assert_close(states["x_prev"], cell.time_norm(x))


def test_each_half_has_its_own_step_before() -> None:
    """Each of the states alone changes the output of the step after."""
    cell, x = make(), torch.randn(1, I)
    fresh = zeros(cell, 1)
    y, _ = cell(x, fresh)
    for name, state in fresh.items():
        changed, _ = cell(x, fresh | {name: torch.randn_like(state)})
        assert (changed - y).abs().max() > 1e-3, name


def test_states() -> None:
    """A layer carries two vectors and a matrix for each head, in the largest heads that fit."""
    shapes = {name: state.shape for name, state in RWKV7Cell(I, 24).states.items()}

    assert shapes == {"x_prev": (24,), "S": (3, 8, 8), "x_prev_channel": (24,)}
    with pytest.raises(ValueError, match="rwkv7: width 6 cannot be cut into heads of 64, 32, 16, 8, 4"):
        RWKV7Cell(I, 6)


def test_fresh_and_warm_sessions_share_a_batch() -> None:
    """Each row gets what it gets alone."""
    check_mixed_batch(make(), torch.randn(5, I))


def test_training() -> None:
    """All gradients are numbers."""
    assert finite_gradients(make(), torch.randn(5, I))


def test_export(tmp_path: Path) -> None:
    """Two layers are exported with proof, as a graph that a GPU takes whole."""
    check_export(RWKV7Cell, tmp_path / "model.onnx")

"""Mamba and Mamba-2: against an oracle's values, in batches of fresh and warm sessions, and exported."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import pad, softplus

from conveyor_export.cells.cell import Cell
from conveyor_export.cells.mamba import Mamba2Cell, MambaCell, initial_dt, step_mamba2, step_s6
from conveyor_export.cells.short_convolution import ShortConvolution
from tests.export.cells.stacked import check_export, check_mixed_batch, finite_gradients
from tests.export.cells.test_golden import H, I, fill

CELLS = (MambaCell, Mamba2Cell)


def test_five_steps_of_s6() -> None:
    """Given inputs, four features give the oracle's output after five steps."""
    x, dt, B, C = fill((5, 2, 4), 1, 1), fill((5, 2, 4), 2, 1), fill((5, 2, 3), 4, 1), fill((5, 2, 3), 5, 1)
    S = torch.zeros(2, 4, 3, dtype=torch.float64)
    for step in range(5):
        y, S = step_s6(x[step], dt[step], fill((4, 3), 3), B[step], C[step], fill((4,), 6), S)

    assert y[0].tolist() == pytest.approx([-0.366622, 0.171709, 0.210631, -0.192655], abs=1e-6)


def test_five_steps_of_mamba2() -> None:
    """Given inputs, two heads of two features give the oracle's output after five steps."""
    x, dt, B, C = fill((5, 2, 2, 2), 1, 1), fill((5, 2, 2), 2, 1), fill((5, 2, 3), 4, 1), fill((5, 2, 3), 5, 1)
    S = torch.zeros(2, 2, 2, 3, dtype=torch.float64)
    for step in range(5):
        y, S = step_mamba2(x[step], dt[step], fill((2,), 3), B[step], C[step], fill((2,), 6), S)

    assert y[0].flatten().tolist() == pytest.approx([-0.409862, 0.078688, 0.339333, 0.343812], abs=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_a_short_convolution_is_a_causal_one_over_the_whole_sequence(bias: bool) -> None:
    """Step after step from a tail of zeros gives what PyTorch's convolution gives of the padded sequence."""
    convolution, whole = ShortConvolution(6, bias=bias), nn.Conv1d(6, 6, 4, groups=6, bias=bias)
    whole.load_state_dict({n: p[:, None] if n == "weight" else p for n, p in convolution.state_dict().items()})
    x_BDT, tail, outputs = torch.randn(2, 6, 9), torch.zeros(2, *convolution.state.shape), []
    for x_BD in x_BDT.unbind(2):
        y, tail = convolution(x_BD, tail)
        outputs.append(y)

    torch.testing.assert_close(torch.stack(outputs, 2), whole(pad(x_BDT, (3, 0))))
    assert torch.equal(tail, x_BDT[:, :, -3:])


def test_a_step_is_short_at_first() -> None:
    """The biases of `dt` make steps between the two bounds of the authors' code."""
    dt = softplus(initial_dt(1000))

    assert 0.00099 < dt.min() < 0.0012
    assert 0.09 < dt.max() < 0.101


def test_states() -> None:
    """A layer carries the convolution's tail and its matrix or matrices, in the largest heads that fit."""
    assert {n: s.shape for n, s in MambaCell(I, H).states.items()} == {"conv": (8, 3), "S": (8, 16)}
    assert {n: s.shape for n, s in Mamba2Cell(I, 48).states.items()} == {"conv": (160, 3), "S": (3, 32, 32)}
    with pytest.raises(ValueError, match="mamba2: width 6 cannot be cut into heads of 64, 32, 16, 8, 4"):
        Mamba2Cell(I, 3)


@pytest.mark.parametrize("make", CELLS)
def test_fresh_and_warm_sessions_share_a_batch(make: Callable[[int, int], Cell]) -> None:
    """Each row gets what it gets alone."""
    torch.manual_seed(0)
    check_mixed_batch(make(I, H), torch.randn(5, I))


@pytest.mark.parametrize("make", CELLS)
def test_training(make: Callable[[int, int], Cell]) -> None:
    """All gradients are numbers, also of an input of zeros."""
    torch.manual_seed(0)
    assert finite_gradients(make(I, H), torch.eye(I + 1, I))


@pytest.mark.parametrize("make", CELLS)
def test_export(make: Callable[[int, int], Cell], tmp_path: Path) -> None:
    """Two layers are exported with proof, as a graph that a GPU takes whole."""
    check_export(make, tmp_path / "model.onnx")

"""Griffin's RG-LRU: against an oracle's values, in batches of fresh and warm sessions, and exported."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import softplus

from conveyor_export.cells.rg_lru import RGLRUCell, step_rg_lru
from tests.export.cells.stacked import check_export, check_mixed_batch, finite_gradients, zeros
from tests.export.cells.test_golden import H, I, fill


def test_five_steps() -> None:
    """Given inputs and gates, the recurrence gives the oracle's output after five steps."""
    x, r, i = (fill((5, 2, H), place, 1) for place in (1, 2, 3))
    h = fill((2, H), 1, 0)
    for step in range(5):
        h = step_rg_lru(r[step], i[step], x[step], fill((H,), 4), h, torch.tensor([step == 0] * 2))

    assert h[0].tolist() == pytest.approx([-0.287916, 0.152130, 0.329362, 0.290365], abs=1e-6)


def test_the_first_step_is_written_whole() -> None:
    """A session's first step has the factor 1; the same input into a zero state later on has a smaller one."""
    torch.manual_seed(0)
    cell, x = RGLRUCell(I, H), torch.randn(2, I)
    states = zeros(cell, 2)

    first, after = cell(x, states)
    later, _ = cell(x, states | {"t": after["t"]})

    projected = x @ cell.W.T
    torch.testing.assert_close(first, torch.sigmoid(projected @ cell.Wx.T) * projected)
    assert after["t"].tolist() == [1, 1]
    assert (later.abs() < first.abs()).all()


def test_radii_start_within_the_papers_bounds() -> None:
    """No unit forgets faster than 0.9 a step at first, nor slower than 0.999."""
    radii = torch.exp(-softplus(RGLRUCell(I, 1000).Lambda))

    assert 0.9 - 1e-4 < radii.min() < 0.91
    assert 0.998 < radii.max() < 0.999 + 1e-4


def test_fresh_and_warm_sessions_share_a_batch() -> None:
    """Each row gets what it gets alone, and a number, also with gates that are all open or shut."""
    torch.manual_seed(0)
    check_mixed_batch(RGLRUCell(I, H), torch.cat([torch.randn(4, I), 120 * torch.randn(4, I)]))


@pytest.mark.parametrize("r", [-30.0, 30.0])
def test_units_that_keep_or_forget_everything_can_be_trained(r: float) -> None:
    """All gradients are numbers where the recurrence gate is open or shut."""
    cell = RGLRUCell(I, H)
    cell.ba.data.fill_(r)

    assert finite_gradients(cell, torch.randn(4, I))


def test_the_factor_is_exact_where_little_is_forgotten() -> None:
    """In float32 it is what float64 gives, though `1 - a a` has lost all its digits."""
    r, one, state = torch.full((1, 1), -14.0), torch.ones(1, 1), torch.zeros(1, 1)
    arguments = r, 100 * one, one, -5 * one[0], state
    exact = [argument.double() for argument in arguments]

    factor = step_rg_lru(*arguments, torch.tensor([False]))

    assert factor.item() == pytest.approx(step_rg_lru(*exact, torch.tensor([False])).item(), rel=1e-5)
    assert factor > 0


def test_export(tmp_path: Path) -> None:
    """Two layers are exported with proof, as a graph that a GPU takes whole."""
    check_export(RGLRUCell, tmp_path / "model.onnx")

"""The window of DRAW, against an oracle's values in float64."""

import pytest
import torch

from conveyor_export.generative.window import Attention, Window, centres, filterbank
from tests.export.cells.test_golden import fill

WIDTH, N, H = 8, 3, 4


def oracle_window() -> Window:
    """The one of the oracle: g = 0.2, log s^2 = 0.3, log delta = -0.2, on eight pixels."""
    attention = Attention(H, (WIDTH, WIDTH), N).double()
    attention.affine.weight.data.zero_()
    attention.affine.bias.data = torch.tensor([0.2, 0.2, 0.3, -0.2, 0.0], dtype=torch.float64)
    window: Window = attention(torch.zeros(1, H, dtype=torch.float64))
    return window


def test_centres() -> None:
    """Filters lie evenly about the window's centre: it is that of the middle one."""
    window = oracle_window()

    mu = centres(window.x, window.stride, N)

    assert mu[0].tolist() == pytest.approx([2.534442, 5.400000, 8.265558], abs=1e-6)


def test_a_row_of_the_filterbank() -> None:
    """The first filter has the oracle's weights, and every filter's sum to one."""
    window = oracle_window()

    F = filterbank(centres(window.x, window.stride, N), window.variance, WIDTH)

    expected = [0.148808, 0.320214, 0.328490, 0.160646, 0.037453, 0.004163, 0.000221, 0.000006]
    assert F[0, 0].tolist() == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(F.sum(-1), torch.ones(1, N, dtype=torch.float64))


def test_a_window_in_the_middle_reads_the_middle() -> None:
    """With parameters of zero, filters of no width read exactly the pixels that lie under an evenly spread grid."""
    attention = Attention(H, (9, 5), 3)
    image = fill((1, 9, 5), 1).float()
    ones = torch.ones(1)
    window = Window(3 * ones, 5 * ones, 2 * ones, 1e-4 * ones, ones)

    torch.testing.assert_close(attention.read(window, image), image[:, 2:7:2, 0:5:2])


def test_writing_puts_a_patch_where_it_was_read() -> None:
    """What a sharp window writes is read back by it, whatever the intensity, and nothing is written elsewhere."""
    attention = Attention(H, (9, 5), 3)
    patch, ones = fill((1, 3, 3), 1).float(), torch.ones(1)
    window = Window(3 * ones, 5 * ones, 2 * ones, 1e-4 * ones, 2 * ones)

    canvas = attention.write(window, patch)

    torch.testing.assert_close(attention.read(window, canvas), patch)
    torch.testing.assert_close(2 * canvas.sum(), patch.sum())
    torch.testing.assert_close(2 * canvas[:, 2:7:2, 0:5:2], patch)


def test_a_window_that_left_the_image_is_finite() -> None:
    """A filter far outside reads the border's pixel, not a quotient of zeros."""
    F = filterbank(torch.tensor([[1000.0]]), torch.tensor([0.01]), WIDTH)

    assert F[0, 0].tolist() == [0.0] * 7 + [1.0]

"""The window of DRAW (Gregor and others, 2015): a grid of Gaussian filters that reads an image, or writes to it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

WINDOW_SIZE = 5


@dataclass(frozen=True, slots=True)
class Window:
    """A grid of N x N filters on an image. All are `[B]`, in pixels, which are counted from 1.

    `x` and `y` are its centre, `stride` is the distance between its filters, `variance` their width squared,
    `intensity` what is read is multiplied by, and what is written divided by.
    """

    x: Tensor
    y: Tensor
    stride: Tensor
    variance: Tensor
    intensity: Tensor

    def numbers(self) -> Tensor:
        """All five, `[B, 5]`, in the order above."""
        return torch.stack([self.x, self.y, self.stride, self.variance, self.intensity], -1)


class Attention(nn.Module):
    """Places a window on images of a height and width, reads through it and writes through it.

    Shapes: hidden vector `[B, H]`, images `[B, height, width]`, patches `[B, N, N]`.
    """

    def __init__(self, hidden_size: int, shape: tuple[int, int], num_filters: int) -> None:
        super().__init__()
        self.shape, self.num_filters = shape, num_filters
        self.affine = nn.Linear(hidden_size, WINDOW_SIZE)

    def forward(self, h_BH: Tensor) -> Window:
        """`(g_X, g_Y, log s^2, log delta, log gamma) = W h + b`, in pixels."""
        x, y, log_variance, log_stride, log_intensity = self.affine(h_BH).unbind(-1)
        height, width = self.shape
        span = (max(self.shape) - 1) / (self.num_filters - 1)
        return Window(
            (width + 1) / 2 * (x + 1),
            (height + 1) / 2 * (y + 1),
            span * torch.exp(log_stride),
            torch.exp(log_variance),
            torch.exp(log_intensity),
        )

    def read(self, window: Window, image: Tensor) -> Tensor:
        """`gamma F_Y x F_X^T`."""
        F_Y, F_X = self._filters(window)
        return window.intensity[:, None, None] * (F_Y @ image @ F_X.mT)

    def write(self, window: Window, patch: Tensor) -> Tensor:
        """`1 / gamma F_Y^T w F_X`."""
        F_Y, F_X = self._filters(window)
        return (F_Y.mT @ patch @ F_X) / window.intensity[:, None, None]

    def _filters(self, window: Window) -> tuple[Tensor, Tensor]:
        height, width = self.shape
        centres_Y = centres(window.y, window.stride, self.num_filters)
        centres_X = centres(window.x, window.stride, self.num_filters)
        return filterbank(centres_Y, window.variance, height), filterbank(centres_X, window.variance, width)


def centres(centre_B: Tensor, stride_B: Tensor, num_filters: int) -> Tensor:
    """`mu^i = g + (i - N / 2 - 0.5) delta` with i from 1 to N, so that their mean is g; `[B, N]`."""
    i = torch.arange(1, num_filters + 1, dtype=centre_B.dtype, device=centre_B.device)
    return centre_B[:, None] + (i - num_filters / 2 - 0.5) * stride_B[:, None]


def filterbank(centres_BN: Tensor, variance_B: Tensor, length: int) -> Tensor:
    """`F[i, a] = exp(-(a - mu^i)^2 / 2 s^2) / Z` with a from 1 to the length; `[B, N, length]`, rows sum to one."""
    a = torch.arange(1, length + 1, dtype=centres_BN.dtype, device=centres_BN.device)
    distance = a - centres_BN[..., None]
    # The quotient is a softmax, which also holds for a window that has left the image: the sum is never zero.
    return torch.softmax(-distance * distance / (2 * variance_B[:, None, None]), -1)

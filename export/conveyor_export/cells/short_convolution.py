"""The short convolution in front of Mamba, DeltaNet, the mLSTM and Griffin: each feature weighs its own last steps."""

import torch
from torch import Tensor, nn

from conveyor_export.cells.cell import StateShape, uniform


class ShortConvolution(nn.Module):
    """A causal depthwise convolution over `num_taps` steps, this one included.

    Its state is the tail `[B, D, num_taps - 1]`: the inputs of the steps before, oldest first, as they came in. What
    squashes the result is the caller's. Starts as `nn.Conv1d` does.
    """

    def __init__(self, num_features: int, num_taps: int = 4, *, bias: bool = True) -> None:
        super().__init__()
        self.state = StateShape((num_features, num_taps - 1))
        self.weight = nn.Parameter(uniform(num_taps, num_features, num_taps))
        self.bias = nn.Parameter(uniform(num_taps, num_features)) if bias else None

    def forward(self, x_BD: Tensor, tail_BDK: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, D]`, and the new tail."""
        window = torch.cat([tail_BDK, x_BD[:, :, None]], 2)
        y = (window * self.weight).sum(2)
        return y if self.bias is None else y + self.bias, window[:, :, 1:]

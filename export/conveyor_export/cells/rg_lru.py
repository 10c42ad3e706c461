"""The real-gated linear recurrent unit of Griffin (De and others, 2024), as RecurrentGemma has it."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, softplus

from conveyor_export.cells.cell import Cell, States, StateShape, uniform

SHARPNESS = 8.0  # the paper's c
LEAST_RADIUS, LARGEST_RADIUS = 0.9, 0.999


def step_rg_lru(r: Tensor, i: Tensor, x: Tensor, Lambda: Tensor, h: Tensor, is_first: Tensor) -> Tensor:
    """The new h from the old one, the input x and the gates' affine parts, all `[B, H]`; Lambda is `[H]`.

    At a session's first step, where `is_first` `[B]` says so, the input is written whole.
    """
    log_a = -SHARPNESS * torch.sigmoid(r) * softplus(Lambda)
    a = torch.exp(log_a)
    # The root of 1 - a * a: that difference loses its digits, and the root its gradient, where a is close to 1.
    root = torch.sqrt(torch.tanh(-log_a) * (1 + a * a))
    return a * h + torch.where(is_first[:, None], 1.0, root) * torch.sigmoid(i) * x


class RGLRUCell(Cell):
    """`h = a h + sqrt(1 - a a) (i x)`, where a gate says how far `a` is from one, and `i` is the input gate.

    The input is always projected to the hidden size first, as the paper's block does, and the gates see that projection
    alone. Their weights are full matrices where the paper's are blocks; the block's convolution is not part of this.
    `t` counts a session's steps, for the first is different: a zero `h` alone does not tell it.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, {"h": StateShape((hidden_size,)), "t": StateShape((), "int64")})
        self.W = nn.Parameter(uniform(input_size, hidden_size, input_size))
        self.Wa, self.Wx = (nn.Parameter(torch.randn(hidden_size, hidden_size) * hidden_size**-0.5) for _ in range(2))
        self.ba, self.bx = (nn.Parameter(torch.zeros(hidden_size)) for _ in range(2))
        # exp(-softplus(Lambda)) is the radius, its square uniform between the bounds.
        squared = torch.empty(hidden_size).uniform_(LEAST_RADIUS**2, LARGEST_RADIUS**2)
        self.Lambda = nn.Parameter(torch.log(torch.expm1(-0.5 * torch.log(squared))))

    def forward(self, x_BI: Tensor, states: States) -> tuple[Tensor, States]:
        x, t = linear(x_BI, self.W), states["t"]
        r, i = linear(x, self.Wa, self.ba), linear(x, self.Wx, self.bx)
        h = step_rg_lru(r, i, x, self.Lambda, states["h"], t == 0)
        return h, {"h": h, "t": t + 1}

"""Mamba (Gu and Dao, 2023) and Mamba-2 (Dao and Gu, 2024): linear recurrences whose weights the input chooses.

`dt` is how long a step lasts, `A` how fast the state decays, `B` where the input is written and `C` where the output is
read. Letters and initial values are those of the papers and of the authors' code. Only the mixer is here: the norm and
the residual connection that the papers put around it are not.
"""

from math import ceil, log

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from conveyor_export.cells.cell import Cell, States, StateShape
from conveyor_export.cells.heads import head_size
from conveyor_export.cells.short_convolution import ShortConvolution


def step_s6(
    x_BD: Tensor, dt_BD: Tensor, A_log_DN: Tensor, B_BN: Tensor, C_BN: Tensor, D_D: Tensor, S_BDN: Tensor
) -> tuple[Tensor, Tensor]:
    """Mamba's recurrence: N numbers for each feature, each with a decay of its own. `dt` is yet to be made positive."""
    dt = softplus(dt_BD)
    S = torch.exp(dt[:, :, None] * -torch.exp(A_log_DN)) * S_BDN + (dt * x_BD)[:, :, None] * B_BN[:, None, :]
    return (S @ C_BN[:, :, None]).squeeze(2) + D_D * x_BD, S


def step_mamba2(
    x_BHP: Tensor, dt_BH: Tensor, A_log_H: Tensor, B_BN: Tensor, C_BN: Tensor, D_H: Tensor, S_BHPN: Tensor
) -> tuple[Tensor, Tensor]:
    """Mamba-2's recurrence: a matrix for each head, decaying as one. `dt` is yet to be made positive."""
    dt = softplus(dt_BH)
    decay, written = torch.exp(dt * -torch.exp(A_log_H)), dt[:, :, None] * x_BHP
    S = decay[:, :, None, None] * S_BHPN + written[:, :, :, None] * B_BN[:, None, None, :]
    # Heads side by side: CUDA's product of matrices does not have to be told where each head's C lies.
    read = (S.flatten(1, 2) @ C_BN[:, :, None]).reshape(x_BHP.shape)
    return read + D_H[:, None] * x_BHP, S


def initial_dt(size: int) -> Tensor:
    """Biases whose softplus is between 0.001 and 0.1, evenly so in its logarithm."""
    dt = torch.empty(size).uniform_(log(0.001), log(0.1)).exp()
    return dt + torch.log(-torch.expm1(-dt))


class MambaCell(Cell):
    """The first Mamba, its inner width twice the hidden size."""

    def __init__(self, input_size: int, hidden_size: int, *, state_size: int = 16) -> None:
        width, rank = 2 * hidden_size, ceil(hidden_size / 16)
        conv = ShortConvolution(width)
        super().__init__(input_size, hidden_size, {"conv": conv.state, "S": StateShape((width, state_size))})
        self.sizes = [rank, state_size, state_size]
        self.in_projection = nn.Linear(input_size, 2 * width, bias=False)
        self.conv = conv
        self.x_projection = nn.Linear(width, sum(self.sizes), bias=False)
        self.dt_projection = nn.Linear(rank, width)  # uniform within 1/sqrt(rank), which is what PyTorch does
        self.dt_projection.bias.data = initial_dt(width)
        self.A_log = nn.Parameter(torch.arange(1.0, state_size + 1).log().repeat(width, 1))
        self.D = nn.Parameter(torch.ones(width))
        self.out_projection = nn.Linear(width, hidden_size, bias=False)

    def forward(self, x_BI: Tensor, states: States) -> tuple[Tensor, States]:
        x, z = self.in_projection(x_BI).chunk(2, 1)
        x, conv = self.conv(x, states["conv"])
        x = silu(x)
        dt, B, C = self.x_projection(x).split(self.sizes, 1)
        y, S = step_s6(x, self.dt_projection(dt), self.A_log, B, C, self.D, states["S"])
        return self.out_projection(y * silu(z)), {"conv": conv, "S": S}


class Mamba2Cell(Cell):
    """Mamba-2 with one group, so that heads share `B` and `C`: inner width twice the hidden size, norm after the gate.

    A state of 32 numbers for each feature is a quarter of the paper's, which a session of a small model need not carry.
    """

    def __init__(self, input_size: int, hidden_size: int, *, state_size: int = 32) -> None:
        width = 2 * hidden_size
        size = head_size("mamba2", width)
        num_heads = width // size
        conv = ShortConvolution(width + 2 * state_size)
        matrices = StateShape((num_heads, size, state_size))
        super().__init__(input_size, hidden_size, {"conv": conv.state, "S": matrices})
        self.heads = num_heads, size
        self.in_sizes = [width, width + 2 * state_size, num_heads]
        self.conv_sizes = [width, state_size, state_size]
        self.in_projection = nn.Linear(input_size, sum(self.in_sizes), bias=False)
        self.conv = conv
        self.dt_bias = nn.Parameter(initial_dt(num_heads))
        self.A_log = nn.Parameter(torch.empty(num_heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(num_heads))
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.out_projection = nn.Linear(width, hidden_size, bias=False)

    def forward(self, x_BI: Tensor, states: States) -> tuple[Tensor, States]:
        z, xBC, dt = self.in_projection(x_BI).split(self.in_sizes, 1)
        xBC, conv = self.conv(xBC, states["conv"])
        x, B, C = torch.split(silu(xBC), self.conv_sizes, 1)
        x = torch.unflatten(x, 1, self.heads)
        y, S = step_mamba2(x, dt + self.dt_bias, self.A_log, B, C, self.D, states["S"])
        return self.out_projection(self.norm(y.flatten(1) * silu(z))), {"conv": conv, "S": S}

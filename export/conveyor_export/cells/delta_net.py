"""DeltaNet (Yang and others, 2024) and Gated DeltaNet (Yang, Kautz and Hatamizadeh, 2024): memory that is corrected.

A head's matrix answers a key with a value. A step writes only what the answer to its key lacks, and before that, where
there is a gate, forgets a part of everything.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from conveyor_export.cells.cell import Cell, States, StateShape
from conveyor_export.cells.mamba import initial_dt
from conveyor_export.cells.short_convolution import ShortConvolution


def step_delta(
    q_BHK: Tensor, k_BHK: Tensor, v_BHV: Tensor, beta_BH: Tensor, S_BHKV: Tensor, log_decay_BH: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The delta rule with queries and keys of length one: Gated DeltaNet's with a decay, DeltaNet's without.

    The matrices are (key, value), as in the paper and in ONNX; there are kernels that want them the other way round.
    """
    S = S_BHKV if log_decay_BH is None else torch.exp(log_decay_BH)[:, :, None, None] * S_BHKV
    lacking = v_BHV - (k_BHK[:, :, None, :] @ S).squeeze(2)
    S = S + k_BHK[:, :, :, None] * (beta_BH[:, :, None] * lacking)[:, :, None, :]
    return (q_BHK[:, :, None, :] @ S).squeeze(2) * q_BHK.shape[-1] ** -0.5, S


def of_length_one(x: Tensor) -> Tensor:
    """Vectors along the last axis over their length; zero stays zero, and has a gradient."""
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)


class GatedDeltaNetCell(Cell):
    """Gated DeltaNet with up to four heads; their keys and values together are as wide as the output.

    Queries, keys and values go through one convolution side by side: it is depthwise, so that is as good as three.
    The norm and the residual connection around the mixer are left out.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        num_heads = next(number for number in (4, 2, 1) if hidden_size % number == 0)
        size = hidden_size // num_heads
        conv = ShortConvolution(3 * hidden_size, bias=False)
        super().__init__(input_size, hidden_size, {"conv": conv.state, "S": StateShape((num_heads, size, size))})
        self.heads = num_heads, size
        self.qkv_projection = nn.Linear(input_size, 3 * hidden_size, bias=False)
        self.conv = conv
        self.beta_projection = nn.Linear(input_size, num_heads, bias=False)
        self.decay_projection = nn.Linear(input_size, num_heads, bias=False)
        self.dt_bias = nn.Parameter(initial_dt(num_heads))
        self.A_log = nn.Parameter(torch.empty(num_heads).uniform_(0, 16).log())
        self.gate_projection = nn.Linear(input_size, hidden_size, bias=False)
        self.norm = nn.RMSNorm(size, eps=1e-5)  # of each head, with the same weights
        self.out_projection = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, x_BI: Tensor, states: States) -> tuple[Tensor, States]:
        qkv, conv = self.conv(self.qkv_projection(x_BI), states["conv"])
        q, k, v = (torch.unflatten(part, 1, self.heads) for part in silu(qkv).chunk(3, 1))
        beta = torch.sigmoid(self.beta_projection(x_BI))
        log_decay = -torch.exp(self.A_log) * softplus(self.decay_projection(x_BI) + self.dt_bias)
        o, S = step_delta(of_length_one(q), of_length_one(k), v, beta, states["S"], log_decay)
        y = self.norm(o).flatten(1) * silu(self.gate_projection(x_BI))
        return self.out_projection(y), {"conv": conv, "S": S}

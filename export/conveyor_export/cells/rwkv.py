"""RWKV-7, "Goose" (Peng and others, 2025): a delta rule whose forgetting and learning rate each channel chooses.

Letters, and the initial values, which the author holds to be essential, are those of the first layer of his code.
"""

from collections.abc import Callable
from math import exp

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from conveyor_export.cells.cell import Cell, States, StateShape
from conveyor_export.cells.heads import head_size

LONGEST_DECAY = exp(-0.5)
# How a channel's share of the step before falls, from the first channel to the last.
MIX_POWERS = {"r": 0.2, "w": 0.9, "k": 0.7, "v": 0.7, "a": 0.9, "g": 0.2}
HEAD_NORM_EPSILON = 64e-5


def step_rwkv7(
    r_BHN: Tensor, k_BHN: Tensor, v_BHN: Tensor, w_BHN: Tensor, a_BHN: Tensor, kappa_BHN: Tensor, S_BHVK: Tensor
) -> tuple[Tensor, Tensor]:
    """The recurrence, its matrices (value, key). `w` is yet to be squashed into a decay, `kappa` to be normalised."""
    w = torch.exp(-LONGEST_DECAY * torch.sigmoid(w_BHN))
    kappa = kappa_BHN / torch.linalg.vector_norm(kappa_BHN, dim=2, keepdim=True).clamp(min=1e-12)
    removed = (S_BHVK @ kappa[:, :, :, None]) * (a_BHN * kappa)[:, :, None, :]
    S = S_BHVK * w[:, :, None, :] - removed + v_BHN[:, :, :, None] * k_BHN[:, :, None, :]
    return (S @ r_BHN[:, :, :, None]).squeeze(3), S


def shifted(x_BC: Tensor, x_prev_BC: Tensor, mix_C: Tensor) -> Tensor:
    """The token shift: each channel takes a share from the step before."""
    return x_BC + (x_prev_BC - x_BC) * mix_C


def scaled_linear(input_size: int, output_size: int, scale: float) -> nn.Linear:
    """Without bias, its weights uniform within `scale / sqrt(input_size)`."""
    linear = nn.Linear(input_size, output_size, bias=False)
    nn.init.uniform_(linear.weight, -scale * input_size**-0.5, scale * input_size**-0.5)
    return linear


class LowRank(nn.Module):
    """A product of two matrices that meet in few channels; the first begins at zero."""

    def __init__(self, size: int, rank: float) -> None:
        super().__init__()
        whole_rank = max(32, round(rank / 32) * 32)
        self.first = nn.Parameter(torch.zeros(size, whole_rank))
        self.second = nn.Parameter(torch.empty(whole_rank, size))
        nn.init.orthogonal_(self.second, gain=0.1 * max(1, whole_rank / size) ** 0.5)

    def forward(self, x_BC: Tensor, squash: Callable[[Tensor], Tensor]) -> Tensor:
        """`squash(x A) B`."""
        return squash(x_BC @ self.first) @ self.second


class TimeMix(nn.Module):
    """What reads and writes the matrices."""

    def __init__(self, size: int) -> None:
        super().__init__()
        per_head = head_size("rwkv7", size)
        self.heads = size // per_head, per_head
        place = torch.arange(size) / size
        self.mix = nn.ParameterDict({name: nn.Parameter(1 - place**power) for name, power in MIX_POWERS.items()})
        along = torch.arange(size) / (size - 1)  # from 0 to 1 over the channels
        in_head = torch.linspace(-1, 1, per_head).repeat(self.heads[0])
        in_head = in_head * in_head.abs()
        self.w_0 = nn.Parameter(6 * along - 5.5 + 2.5 * in_head)
        self.a_0 = nn.Parameter(0.4 * (along - 0.5) + 0.3 * in_head - 0.19)
        self.k_k = nn.Parameter(0.71 - 0.1 * (along - 0.5))
        self.k_a = nn.Parameter(torch.full((size,), 1.02))
        self.r_k = nn.Parameter(torch.full(self.heads, -0.04))
        self.w, self.a = LowRank(size, 1.8 * size**0.5), LowRank(size, 1.8 * size**0.5)
        self.g = LowRank(size, 0.6 * size**0.8)
        self.receptance, self.value = scaled_linear(size, size, 0.5), scaled_linear(size, size, 0.5)
        self.key = scaled_linear(size, size, 0.05)
        self.norm_weight, self.norm_bias = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))
        self.output = scaled_linear(size, size, 0)

    def forward(self, x_BC: Tensor, x_prev_BC: Tensor, S_BHVK: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, C]`, and the new matrices."""
        x = {name: shifted(x_BC, x_prev_BC, mix) for name, mix in self.mix.items()}
        w = self.w_0 + self.w(x["w"], torch.tanh)
        a = torch.sigmoid(self.a_0 + self.a(x["a"], nn.Identity()))
        g = self.g(x["g"], torch.sigmoid)
        r, k, v = self.receptance(x["r"]), self.key(x["k"]), self.value(x["v"])
        kappa, k = k * self.k_k, k * (1 + (a - 1) * self.k_a)
        r, k, v, w, a, kappa = (each.unflatten(1, self.heads) for each in (r, k, v, w, a, kappa))
        y, S = step_rwkv7(r, k, v, w, a, kappa, S_BHVK)
        y = layer_norm(y, self.heads[1:], eps=HEAD_NORM_EPSILON).flatten(1) * self.norm_weight + self.norm_bias
        bonus = (r * k * self.r_k).sum(2, keepdim=True) * v
        return self.output((y + bonus.flatten(1)) * g), S


class ChannelMix(nn.Module):
    """The layer's feed-forward half, which sees the step before as well."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.mix = nn.Parameter(1 - torch.arange(size) / size)
        self.key, self.value = scaled_linear(size, 4 * size, 0.5), scaled_linear(4 * size, size, 0)

    def forward(self, x_BC: Tensor, x_prev_BC: Tensor) -> Tensor:
        """`[B, C]`."""
        k = torch.relu(self.key(shifted(x_BC, x_prev_BC, self.mix)))
        y: Tensor = self.value(k * k)
        return y


class RWKV7Cell(Cell):
    """A layer of RWKV-7: time mix, then channel mix, each on a layer norm and beside a residual connection.

    Every layer is as the model's first, which mixes no values of a layer below into its own. An input that is not as
    wide as the layer is projected. At first both halves add nothing.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        time_mix = TimeMix(hidden_size)
        num_heads, size = time_mix.heads
        vector, matrices = StateShape((hidden_size,)), StateShape((num_heads, size, size))
        super().__init__(input_size, hidden_size, {"x_prev": vector, "S": matrices, "x_prev_channel": vector})
        same = input_size == hidden_size
        self.in_projection = nn.Identity() if same else nn.Linear(input_size, hidden_size, bias=False)
        self.time_norm, self.channel_norm = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)
        self.time_mix, self.channel_mix = time_mix, ChannelMix(hidden_size)

    def forward(self, x_BI: Tensor, states: States) -> tuple[Tensor, States]:
        x = self.in_projection(x_BI)
        x_time = self.time_norm(x)
        mixed, S = self.time_mix(x_time, states["x_prev"], states["S"])
        x = x + mixed
        x_channel = self.channel_norm(x)
        x = x + self.channel_mix(x_channel, states["x_prev_channel"])
        return x, {"x_prev": x_time, "S": S, "x_prev_channel": x_channel}

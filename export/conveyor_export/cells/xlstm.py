"""The cells of xLSTM (Beck and others, 2024): exponential gates, and for the second a matrix as its memory.

An exponential would overflow, so memory and normaliser are kept divided by `exp(m)`, and the stabiliser `m` is a state
beside them. What the paper's blocks put around the cells, convolution, norm and projections, is not part of them.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from conveyor_export.cells.cell import Cell, Gate, States, StateShape

EPSILON = 1e-6


def log_sigmoid(a: Tensor) -> Tensor:
    """As a softplus: PyTorch's own is exported as the logarithm of a sigmoid, which is -inf below -18."""
    return -softplus(-a)


def step_slstm(
    i: Tensor, f: Tensor, z: Tensor, o: Tensor, c: Tensor, n: Tensor, m: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The new h, c, n and m from the old c, n and m and from the gates' affine parts; all are `[B, H]`."""
    # Where there is nothing to keep yet, i alone decides. The authors' code asks whether that is so in the whole batch:
    # there, a session that opens beside others may get NaN.
    keep = torch.where(n == 0, i, log_sigmoid(f) + m)
    m = torch.maximum(keep, i)
    f, i = torch.exp(keep - m), torch.exp(i - m)
    c, n = f * c + i * torch.tanh(z), f * n + i
    # As f or i is 1, n is never below 1 after a step: the bound is for states that no session reaches, but proofs do.
    return torch.sigmoid(o) * c / n.clamp(min=1), c, n, m


class SLSTMCell(Cell):
    """sLSTM: an LSTM whose input gate is an exponential, and whose cell state is divided by the gates' running sum.

    The forget gate is a sigmoid, as in the authors' code; the paper also allows an exponential. The recurrent weights
    are one full matrix, the paper's case of a single head. They start at zero, and the biases of the forget gate spread
    over the units, as in the authors' code for the middle one of its blocks.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, {name: StateShape((hidden_size,)) for name in "hcnm"})
        self.i, self.f, self.z, self.o = (Gate(input_size, hidden_size) for _ in range(4))
        for gate in (self.i, self.f, self.z, self.o):
            nn.init.zeros_(gate.R)
        self.f.b.data = torch.linspace(5, -7, hidden_size)

    def forward(self, x_BI: Tensor, states: States) -> tuple[Tensor, States]:
        i, f, z, o = (gate(x_BI, states["h"]) for gate in (self.i, self.f, self.z, self.o))
        h, c, n, m = step_slstm(i, f, z, o, states["c"], states["n"], states["m"])
        return h, {"h": h, "c": c, "n": n, "m": m}


def step_mlstm(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, C: Tensor, n: Tensor, m: Tensor, epsilon: float = EPSILON
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the query finds, `[B, N, V]`, and the new C, n and m.

    q and k are `[B, N, K]`, v `[B, N, V]`, the gates' affine parts and m `[B, N]`, C `[B, N, K, V]`, n `[B, N, K]`.
    """
    keep = log_sigmoid(f) + m
    m = torch.maximum(keep, i)
    f, i = torch.exp(keep - m)[..., None], torch.exp(i - m)[..., None]
    written = i * k * k.shape[-1] ** -0.5
    n = f * n + written
    C = f[..., None] * C + written[..., :, None] * v[..., None, :]
    found = (q[..., None, :] @ C).squeeze(-2)
    size = torch.maximum((q * n).sum(-1).abs(), torch.exp(-m)) + epsilon
    return found / size[..., None], C, n, m


class MLSTMCell(Cell):
    """mLSTM: each head's memory is a matrix of values under keys, which a query reads.

    Everything comes from the input alone; a head's input and forget gate are one number each. Keys are as wide as
    values, `hidden_size / num_heads`. Without `num_heads` there are four heads, or as many of 2 and 1 as divide the
    hidden size. Gates start as in the authors' code: deaf to the input, and remembering.
    """

    def __init__(self, input_size: int, hidden_size: int, *, num_heads: int | None = None) -> None:
        num_heads = num_heads or next(n for n in (4, 2, 1) if hidden_size % n == 0)
        if hidden_size % num_heads:
            raise ValueError(f"mlstm: hidden size {hidden_size} cannot be cut into {num_heads} equal heads")
        size = hidden_size // num_heads
        shapes = {"C": (num_heads, size, size), "n": (num_heads, size), "m": (num_heads,)}
        super().__init__(input_size, hidden_size, {name: StateShape(shape) for name, shape in shapes.items()})
        self.per_head = (num_heads, size)
        self.q, self.k, self.v, self.o = (nn.Linear(input_size, hidden_size) for _ in range(4))
        self.i, self.f = (nn.Linear(input_size, num_heads) for _ in range(2))
        nn.init.zeros_(self.i.weight)
        nn.init.zeros_(self.f.weight)
        nn.init.normal_(self.i.bias, std=0.1)
        self.f.bias.data = torch.linspace(3, 6, num_heads)

    def forward(self, x_BI: Tensor, states: States) -> tuple[Tensor, States]:
        q, k, v = (linear(x_BI).unflatten(1, self.per_head) for linear in (self.q, self.k, self.v))
        found, C, n, m = step_mlstm(q, k, v, self.i(x_BI), self.f(x_BI), states["C"], states["n"], states["m"])
        return torch.sigmoid(self.o(x_BI)) * found.flatten(1), {"C": C, "n": n, "m": m}

"""The attention of Bahdanau, Cho and Bengio (2014): a small network scores each annotation against the state."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class AdditiveAttention(nn.Module):
    """`e_i = v . tanh(U a_i + b + W s)`, and the weights `alpha = softmax(e)`.

    Shapes: annotations `[B, L, D]`, their projections `U a + b` `[B, L, A]`, state `[B, N]`, weights `[B, L]`. What the
    released code of Xu and others adds to all scores alike changes no weight, and is left out.
    """

    def __init__(self, annotation_size: int, state_size: int, attention_size: int) -> None:
        super().__init__()
        self.U = nn.Parameter(torch.randn(attention_size, annotation_size) * annotation_size**-0.5)
        self.W = nn.Parameter(torch.randn(attention_size, state_size) * state_size**-0.5)
        self.b = nn.Parameter(torch.zeros(attention_size))
        self.v = nn.Parameter(torch.randn(attention_size) * attention_size**-0.5)

    def project(self, annotations_BLD: Tensor) -> Tensor:
        """The part that no step changes, `[B, L, A]`: once for a session is enough."""
        return linear(annotations_BLD, self.U, self.b)

    def forward(self, projected_BLA: Tensor, state_BN: Tensor) -> Tensor:
        """The weights, `[B, L]`."""
        e_BL1 = linear(torch.tanh(projected_BLA + linear(state_BN, self.W)[:, None]), self.v[None])
        return torch.softmax(e_BL1[..., 0], 1)


def expected(alpha_BL: Tensor, annotations_BLD: Tensor) -> Tensor:
    """The mean annotation under the weights, `[B, D]`: soft attention's context."""
    return (alpha_BL[:, None] @ annotations_BLD)[:, 0]

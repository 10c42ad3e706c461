"""The stochastic recurrent network of Bayer and Osendorfer (2015): noise as one more input of a plain tanh RNN."""

import torch
from torch import Tensor, nn

from conveyor_export.cells.elman import ElmanCell
from conveyor_export.generative.gaussian import Gaussian, standard
from conveyor_export.generative.sequence_model import SequenceModel, Sizes, join
from conveyor_export.protocol import Tensors

LEAST_VARIANCE = 1e-4  # its logarithm is finite, and float32 has digits enough for it near a root of zero


class STORN(SequenceModel):
    """`h_t = f_g(h_{t-1}, z_t, x_{t-1})` generates, `g_t = f_r(g_{t-1}, x_t)` recognises; the prior is N(0, I).

    Recognition never sees z or h. It reads the inputs up to the present one; `x_previous` is zero at the start.
    """

    def __init__(self, sizes: Sizes) -> None:
        X, Z, H = sizes.input_size, sizes.latent_size, sizes.hidden_size
        generating = {"h": H, "x_previous": X}
        super().__init__(sizes, generating, generating | {"g": H}, num_features=H)
        self.f_g, self.f_r = ElmanCell(Z + X, H), ElmanCell(X, H)
        self.posterior = SquaredGaussianLayer(H, Z)

    def score(self, x_BX: Tensor, epsilon_BZ: Tensor, states: Tensors) -> tuple[Tensors, Tensors]:
        g, _ = self.f_r(x_BX, {"h": states["g"]})
        posterior: Gaussian = self.posterior(g)
        h = self._advance(posterior.sample(epsilon_BZ), states)
        log_likelihood = self.likelihood.log_likelihood(h, x_BX)
        terms = {"log_likelihood": log_likelihood, "kl": posterior.divergence(standard(posterior))}
        return terms, {"h": h, "x_previous": x_BX, "g": g}

    def generate(self, epsilon_BZ: Tensor, noise_BX: Tensor, states: Tensors) -> tuple[Tensors, Tensors]:
        h = self._advance(epsilon_BZ, states)
        x, mean = self.likelihood.draw(h, noise_BX)
        return {"x": x, "mean": mean}, {"h": h, "x_previous": x}

    def _advance(self, z_BZ: Tensor, states: Tensors) -> Tensor:
        h, _ = self.f_g(join(z_BZ, states["x_previous"]), {"h": states["h"]})
        return h  # type: ignore[no-any-return]


class SquaredGaussianLayer(nn.Module):
    """A Gaussian whose mean is affine in the features, and whose variance is the square of such: the paper's."""

    def __init__(self, num_features: int, size: int) -> None:
        super().__init__()
        self.mean, self.root = nn.Linear(num_features, size), nn.Linear(num_features, size)
        nn.init.ones_(self.root.bias)  # a root of about zero would make the posterior a point at first

    def forward(self, features_BF: Tensor) -> Gaussian:
        root = self.root(features_BF)
        return Gaussian(self.mean(features_BF), torch.sqrt(root * root + LEAST_VARIANCE))

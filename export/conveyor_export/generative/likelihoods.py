"""What a step of a sequence may be, given features: real numbers or bits. Each can be scored and drawn."""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from conveyor_export.generative.gaussian import GaussianLayer


class Likelihood(Protocol):
    """The last layer of a decoder. Shapes: features `[B, F]`, x, its mean and noise `[B, X]`, log-likelihoods `[B]`."""

    noise: str  # the distribution of the noise that `draw` takes

    def log_likelihood(self, features_BF: Tensor, x_BX: Tensor) -> Tensor:
        """In nats, summed over the parts of x."""

    def draw(self, features_BF: Tensor, noise_BX: Tensor) -> tuple[Tensor, Tensor]:
        """The x that the noise stands for, and its mean."""


class RealLikelihood(nn.Module):
    """Real numbers: a diagonal Gaussian."""

    noise = "normal"

    def __init__(self, num_features: int, size: int) -> None:
        super().__init__()
        self.gaussian = GaussianLayer(num_features, size)

    def log_likelihood(self, features_BF: Tensor, x_BX: Tensor) -> Tensor:
        density: Tensor = self.gaussian(features_BF).log_density(x_BX)
        return density

    def draw(self, features_BF: Tensor, noise_BX: Tensor) -> tuple[Tensor, Tensor]:
        x = self.gaussian(features_BF)
        return x.sample(noise_BX), x.mean


class BitsLikelihood(nn.Module):
    """Independent bits, such as the keys of a piano that are held."""

    noise = "uniform"

    def __init__(self, num_features: int, size: int) -> None:
        super().__init__()
        self.logits = nn.Linear(num_features, size)

    def log_likelihood(self, features_BF: Tensor, x_BX: Tensor) -> Tensor:
        return bits_log_likelihood(self.logits(features_BF), x_BX).sum(-1)

    def draw(self, features_BF: Tensor, noise_BX: Tensor) -> tuple[Tensor, Tensor]:
        probability = torch.sigmoid(self.logits(features_BF))
        return (noise_BX < probability).to(probability.dtype), probability


def bits_log_likelihood(logits: Tensor, x: Tensor) -> Tensor:
    """In nats, of each bit."""
    return x * logits - softplus(logits)


def counts_log_likelihood(logits: Tensor, share: Tensor, num_bits: int) -> Tensor:
    """In nats, of the share of so many bits that are set: a binomial distribution."""
    total = share.new_tensor(num_bits)
    ways = torch.lgamma(total + 1) - torch.lgamma(share * total + 1) - torch.lgamma((1 - share) * total + 1)
    return num_bits * bits_log_likelihood(logits, share) + ways


LIKELIHOODS = {"real": RealLikelihood, "bits": BitsLikelihood}

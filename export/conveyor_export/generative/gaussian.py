"""Diagonal Gaussians, as priors, posteriors and outputs of the generative models."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

LEAST_DEVIATION = 1e-4
DEVIATION_BIAS = 0.6  # the VRNN's own code begins with it: a deviation of about one


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Independent normal variables; mean and standard deviation are `[..., Z]`."""

    mean: Tensor
    deviation: Tensor

    def sample(self, epsilon: Tensor) -> Tensor:
        """The value that noise of mean 0 and variance 1 stands for."""
        return self.mean + self.deviation * epsilon

    def log_density(self, x: Tensor) -> Tensor:
        """In nats, summed over the last axis."""
        score = (x - self.mean) / self.deviation
        return -0.5 * (score * score + 2 * torch.log(self.deviation) + math.log(2 * math.pi)).sum(-1)

    def divergence(self, prior: "Gaussian") -> Tensor:
        """The Kullback-Leibler divergence of this from a prior, in nats, summed over the last axis."""
        ratio = self.deviation / prior.deviation
        shift = (self.mean - prior.mean) / prior.deviation
        return 0.5 * (ratio * ratio + shift * shift - 1 - 2 * torch.log(ratio)).sum(-1)


def standard(like: Gaussian) -> Gaussian:
    """N(0, I) of another's shape."""
    return Gaussian(torch.zeros_like(like.mean), torch.ones_like(like.deviation))


class GaussianLayer(nn.Module):
    """A Gaussian whose mean is affine in the features, and whose deviation is the softplus of such."""

    def __init__(self, num_features: int, size: int) -> None:
        super().__init__()
        self.mean, self.deviation = nn.Linear(num_features, size), nn.Linear(num_features, size)
        nn.init.constant_(self.deviation.bias, DEVIATION_BIAS)

    def forward(self, features_BF: Tensor) -> Gaussian:
        return Gaussian(self.mean(features_BF), softplus(self.deviation(features_BF)) + LEAST_DEVIATION)

"""Diagonal Gaussians and likelihoods, against PyTorch's own distributions."""

import torch
from torch.distributions import Bernoulli, Binomial, Independent, Normal, kl_divergence

from conveyor_export.generative.gaussian import Gaussian, GaussianLayer, standard
from conveyor_export.generative.likelihoods import BitsLikelihood, RealLikelihood, counts_log_likelihood

B, F, X = 5, 7, 3


def some_gaussian() -> Gaussian:
    return Gaussian(torch.randn(B, X), torch.rand(B, X) + 0.1)


def test_the_divergence_is_exact() -> None:
    """It is what PyTorch computes for any two, and zero of a Gaussian from itself."""
    torch.manual_seed(0)
    posterior, prior = some_gaussian(), some_gaussian()
    expected = kl_divergence(Normal(posterior.mean, posterior.deviation), Normal(prior.mean, prior.deviation)).sum(-1)

    torch.testing.assert_close(posterior.divergence(prior), expected)
    torch.testing.assert_close(prior.divergence(prior), torch.zeros(B))


def test_the_divergence_from_a_standard_one_has_all_its_constants() -> None:
    """One half per latent variable is taken off: the divergence of N(0, I) from itself is zero."""
    torch.manual_seed(0)
    posterior = some_gaussian()
    variance = posterior.deviation**2

    expected = 0.5 * (posterior.mean**2 + variance - torch.log(variance)).sum(-1) - X / 2

    torch.testing.assert_close(posterior.divergence(standard(posterior)), expected)


def test_a_layer_begins_near_deviation_one() -> None:
    """Without features the mean is the bias, and the deviation that of the VRNN's own code."""
    gaussian = GaussianLayer(F, X)(torch.zeros(B, F))

    assert gaussian.deviation.min() > 1
    assert gaussian.deviation.max() < 1.1


def test_real_numbers() -> None:
    """Scored as PyTorch's normal distribution scores them, and drawn from it: noise 0 is the mean."""
    torch.manual_seed(0)
    likelihood, features, x = RealLikelihood(F, X), torch.randn(B, F), torch.randn(B, X)
    gaussian = likelihood.gaussian(features)
    expected = Independent(Normal(gaussian.mean, gaussian.deviation), 1)

    torch.testing.assert_close(likelihood.log_likelihood(features, x), expected.log_prob(x))
    drawn, mean = likelihood.draw(features, torch.ones(B, X))
    torch.testing.assert_close(mean, gaussian.mean)
    torch.testing.assert_close(drawn, gaussian.mean + gaussian.deviation)


def test_bits() -> None:
    """Scored as PyTorch's Bernoulli distribution scores them, and drawn as often as their probability says."""
    torch.manual_seed(0)
    likelihood, features = BitsLikelihood(F, X), torch.randn(B, F)
    expected = Independent(Bernoulli(logits=likelihood.logits(features)), 1)
    x = expected.sample()

    torch.testing.assert_close(likelihood.log_likelihood(features, x), expected.log_prob(x))
    evenly = (torch.arange(1000) / 1000).view(-1, 1, 1).expand(-1, B, X)
    drawn, probability = likelihood.draw(features, evenly)
    torch.testing.assert_close(probability, expected.mean)
    torch.testing.assert_close(drawn.mean(0), probability, atol=1e-3, rtol=0)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}


def test_counts_of_bits() -> None:
    """Scored as PyTorch's binomial distribution scores them; of one bit, as a Bernoulli distribution does."""
    torch.manual_seed(0)
    logits, counts = torch.randn(B, X), torch.randint(0, 17, (B, X)).float()
    bits = (counts > 8).float()

    many, one = counts_log_likelihood(logits, counts / 16, 16), counts_log_likelihood(logits, bits, 1)

    torch.testing.assert_close(many, Binomial(16, logits=logits).log_prob(counts), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(one, Bernoulli(logits=logits).log_prob(bits))

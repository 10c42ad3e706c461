"""VRNN and STORN: what conditions on what, the bound, and generation against the terms that training scores."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from conveyor_export.generative.forms import Generate, Score
from conveyor_export.generative.sequence_model import SequenceModel, Sizes, join
from conveyor_export.generative.storn import LEAST_VARIANCE, STORN
from conveyor_export.generative.vrnn import VRNN

T, B, X, Z, H = 6, 3, 5, 2, 8
MODELS = [(VRNN, "real"), (VRNN, "bits"), (STORN, "real"), (STORN, "bits")]


def make(model: Any, kind: str) -> SequenceModel:
    torch.manual_seed(0)
    made: SequenceModel = model(Sizes(X, Z, H, kind))
    return made.requires_grad_(False)


def zeros(sizes: dict[str, int]) -> dict[str, Tensor]:
    return {name: torch.zeros(B, size) for name, size in sizes.items()}


def sequences(kind: str) -> Tensor:
    x = torch.randn(T, B, X)
    return (x > 0).float() if kind == "bits" else x


@pytest.mark.parametrize(("model", "kind"), MODELS)
def test_the_bound_is_what_the_served_form_adds_up_to(model: Any, kind: str) -> None:
    """The likelihood minus the divergence at each step, also if a session takes its steps in chunks."""
    made, x, epsilon = make(model, kind), sequences(kind), torch.randn(T, B, Z)
    states, shares = zeros(made.score_states), []
    for chunk in (slice(0, 1), slice(1, 4), slice(4, T)):
        terms, states = Score(made)({"x": x[chunk], "epsilon": epsilon[chunk]}, states)
        shares.append(terms["log_likelihood"] - terms["kl"])

    torch.testing.assert_close(torch.cat(shares), made.bound(x, epsilon))


@pytest.mark.parametrize(("model", "kind"), MODELS)
def test_what_is_generated_is_what_the_same_latent_variables_score(model: Any, kind: str) -> None:
    """With a posterior that is made to be the prior, scoring what was generated takes the very same way through h."""
    made = make(model, kind)
    uniform, epsilon = torch.rand(T, B, X), torch.randn(T, B, Z)
    noise = uniform if kind == "bits" else torch.randn(T, B, X)
    generated, after = Generate(made)({"epsilon": epsilon, "noise": noise}, zeros(made.states))

    match_posterior_to_prior(made)
    terms, scored = Score(made)({"x": generated["x"], "epsilon": epsilon}, zeros(made.score_states))

    for name in after:
        torch.testing.assert_close(scored[name], after[name])
    torch.testing.assert_close(terms["kl"], torch.zeros(T, B), atol=1e-5, rtol=0)
    torch.testing.assert_close(terms["log_likelihood"], log_density(kind, made, generated, epsilon, noise))


def match_posterior_to_prior(made: SequenceModel) -> None:
    if isinstance(made, STORN):
        for parameter in made.posterior.parameters():
            parameter.zero_()
        made.posterior.root.bias.fill_((1 - LEAST_VARIANCE) ** 0.5)
        return
    assert isinstance(made, VRNN)
    made.phi_enc = torch.nn.Sequential(Rest(H), made.phi_prior)


class Rest(torch.nn.Module):
    """Leaves the features out: what is left of `[phi_x; h]` is h."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, joined: Tensor) -> Tensor:
        return joined[..., self.num_features :]


def log_density(kind: str, made: SequenceModel, generated: dict[str, Tensor], epsilon: Tensor, noise: Tensor) -> Tensor:
    """Of what was generated, from its mean alone where it is bits, and from its noise where it is real numbers."""
    x, mean = generated["x"], generated["mean"]
    if kind == "bits":
        return torch.distributions.Bernoulli(mean).log_prob(x).sum(-1)
    deviation = (x - mean) / noise
    return Normal(mean, deviation).log_prob(x).sum(-1)


def test_a_prior_of_vrnn_knows_the_past_and_not_the_present() -> None:
    """The divergence at a step is that of q(z | x, h) from p(z | h), with h as the step before left it."""
    made = make(VRNN, "real")
    assert isinstance(made, VRNN)
    x, epsilon = torch.randn(B, X), torch.randn(B, Z)
    states = {"h": torch.randn(B, H), "c": torch.randn(B, H)}

    terms, _ = made.score(x, epsilon, states)

    prior, posterior = made.phi_prior(states["h"]), made.phi_enc(join(made.phi_x(x), states["h"]))
    expected = kl_divergence(Normal(posterior.mean, posterior.deviation), Normal(prior.mean, prior.deviation))
    torch.testing.assert_close(terms["kl"], expected.sum(-1))
    other, _ = made.score(x, epsilon, states | {"c": torch.randn(B, H)})
    torch.testing.assert_close(other["kl"], terms["kl"])


def test_recognition_of_storn_sees_neither_z_nor_h() -> None:
    """Another noise changes what is generated, and no divergence at any step."""
    made, x = make(STORN, "bits"), sequences("bits")
    one, _ = Score(made)({"x": x, "epsilon": torch.randn(T, B, Z)}, zeros(made.score_states))
    other, _ = Score(made)({"x": x, "epsilon": torch.randn(T, B, Z)}, zeros(made.score_states))

    assert torch.equal(one["kl"], other["kl"])
    assert not torch.equal(one["log_likelihood"], other["log_likelihood"])


def test_a_variance_of_storn_is_a_square() -> None:
    """Both signs of the affine output give the same deviation, and zero gives the least one."""
    layer = make(STORN, "real").posterior  # type: ignore[operator]
    layer.root.weight.zero_()
    deviations = []
    for bias in (-0.7, 0.7, 0.0):
        layer.root.bias.fill_(bias)
        deviations.append(layer(torch.randn(1, H)).deviation[0, 0].item())

    assert deviations == pytest.approx([0.7, 0.7, 0.01], abs=1e-3)


def test_sizes_are_checked() -> None:
    """The error names the field."""
    with pytest.raises(ValueError, match="latent_size"):
        Sizes(3, latent_size=0)
    with pytest.raises(ValueError, match="kind: expected one of real, bits, got 'notes'"):
        Sizes(3, kind="notes")


def test_number_of_parameters_of_storn() -> None:
    """It is the paper's: a tanh RNN that generates, its output, another that recognises, and q(z)."""
    generator, recognition = H * (X + Z + H + 1) + X * (H + 1), H * (X + H + 1) + 2 * Z * (H + 1)

    assert sum(parameter.numel() for parameter in make(STORN, "bits").parameters()) == generator + recognition

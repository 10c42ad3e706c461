"""What VRNN and STORN have in common: a latent variable at each step, and a bound on the likelihood of sequences."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from conveyor_export.generative.likelihoods import LIKELIHOODS, Likelihood
from conveyor_export.protocol import Tensors
from conveyor_export.ranges import check_positive
from conveyor_export.steps import over_steps


@dataclass(frozen=True, slots=True)
class Sizes:
    """X values of a step, of a kind of `likelihoods.LIKELIHOODS`, Z latent ones, H hidden units."""

    input_size: int
    latent_size: int = 16
    hidden_size: int = 64
    kind: str = "real"

    def __post_init__(self) -> None:
        check_positive(self, "input_size", "latent_size", "hidden_size")
        if self.kind not in LIKELIHOODS:
            raise ValueError(f"kind: expected one of {', '.join(LIKELIHOODS)}, got {self.kind!r}")


class SequenceModel(nn.Module):
    """A model of sequences x_1, x_2, ... with latent variables z_1, z_2, ...

    `states` are those that generating takes, `score_states` those that scoring takes: name and size. All begin at zero.
    Shapes: x `[B, X]`, epsilon `[B, Z]`, noise `[B, X]`, each state `[B, its size]`.
    """

    def __init__(self, sizes: Sizes, states: dict[str, int], score_states: dict[str, int], num_features: int) -> None:
        super().__init__()
        self.sizes, self.states, self.score_states = sizes, states, score_states
        make: Any = LIKELIHOODS[sizes.kind]
        self.likelihood: Likelihood = make(num_features, sizes.input_size)

    def score(self, x_BX: Tensor, epsilon_BZ: Tensor, states: Tensors) -> tuple[Tensors, Tensors]:
        """The step's terms of the bound, `log_likelihood` and `kl`, both `[B]` in nats, and the new states."""
        raise NotImplementedError

    def generate(self, epsilon_BZ: Tensor, noise_BX: Tensor, states: Tensors) -> tuple[Tensors, Tensors]:
        """The step that the noise stands for: `x` and its `mean`, both `[B, X]`, and the new states."""
        raise NotImplementedError

    def bound(self, x_TBX: Tensor, epsilon_TBZ: Tensor) -> Tensor:
        """Each step's share `[T, B]`, in nats, of a lower bound on the log-likelihood of whole sequences."""
        states = {name: x_TBX.new_zeros(x_TBX.shape[1], size) for name, size in self.score_states.items()}
        terms, _ = over_steps(self._score_step, {"x": x_TBX, "epsilon": epsilon_TBZ}, states)
        return terms["log_likelihood"] - terms["kl"]

    def _score_step(self, timed: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        return self.score(timed["x"], timed["epsilon"], states)


def two_layers(num_inputs: int, num_features: int) -> nn.Sequential:
    """Features of a vector: two rectified layers, which keep its size at first (He and others, 2015)."""
    layers = nn.Linear(num_inputs, num_features), nn.Linear(num_features, num_features)
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU())


def join(*parts: Tensor) -> Tensor:
    """Vectors of a batch, one behind the other."""
    return torch.cat(parts, -1)

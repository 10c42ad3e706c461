"""The two forms in which a model of sequences is served: one draws sequences, the other scores those of a client."""

from torch import nn

from conveyor.signature import NoiseSpec, OutputSpec, Signature, StateSpec, TensorSpec
from conveyor_export.generative.sequence_model import SequenceModel
from conveyor_export.protocol import Tensors
from conveyor_export.steps import SESSION, STEPS, over_steps


class Generate(nn.Module):
    """Nothing goes in: each step is drawn, and is what the next one goes on from.

    Noises: `epsilon` of the latent variables, and `noise` of x given them. Outputs: `x`, and `mean`, from which it was
    drawn; both `[T, B, X]`.
    """

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model = model

    def signature(self) -> Signature:
        """See `conveyor_export.protocol`."""
        sizes = self.model.sizes
        drawn = self.model.likelihood.noise
        return Signature(
            inputs=(),
            noises=(
                NoiseSpec("epsilon", "float32", (sizes.latent_size,), STEPS),
                NoiseSpec("noise", "float32", (sizes.input_size,), STEPS, distribution=drawn),
            ),
            states=vector_states(self.model.states),
            outputs=tuple(OutputSpec(name, "float32", (sizes.input_size,), STEPS) for name in ("x", "mean")),
            fixed_steps=1,
        )

    def forward(self, inputs: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        return over_steps(self._step, inputs, states)

    def _step(self, timed: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        return self.model.generate(timed["epsilon"], timed["noise"], states)


class Score(nn.Module):
    """A client's sequence goes in, each step's share of the bound comes out, for one draw of the latent variables.

    Input `x` `[T, B, X]`, noise `epsilon`. Outputs: `log_likelihood` and `kl`, both `[T, B]` in nats; the bound is the
    sum over all steps of the first minus the second.
    """

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model = model

    def signature(self) -> Signature:
        """See `conveyor_export.protocol`."""
        sizes = self.model.sizes
        return Signature(
            inputs=(TensorSpec("x", "float32", (sizes.input_size,), STEPS),),
            noises=(NoiseSpec("epsilon", "float32", (sizes.latent_size,), STEPS),),
            states=vector_states(self.model.score_states),
            outputs=tuple(OutputSpec(name, "float32", (), STEPS) for name in ("log_likelihood", "kl")),
            fixed_steps=1,
        )

    def forward(self, inputs: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        return over_steps(self._step, inputs, states)

    def _step(self, timed: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        return self.model.score(timed["x"], timed["epsilon"], states)


def vector_states(sizes: dict[str, int]) -> tuple[StateSpec, ...]:
    """States `[B, size]`, zero when a session opens."""
    return tuple(StateSpec(name, "float32", (size,), SESSION, output=f"{name}_out") for name, size in sizes.items())

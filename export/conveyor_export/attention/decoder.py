"""What decoders with attention share: tokens in, scores and attention out, and a session that opens on annotations."""

from dataclasses import dataclass, fields

from torch import Tensor, nn

from conveyor.signature import ContextSpec, NoiseSpec, OutputSpec, Signature, StateSpec, TensorSpec
from conveyor_export.attention.additive import AdditiveAttention
from conveyor_export.protocol import Tensors
from conveyor_export.ranges import check_positive
from conveyor_export.steps import SESSION, STEPS, over_steps

# Fed before the first word, where the papers have no word and zeros for its embedding; scored as the end.
BOUNDARY = 0


@dataclass(frozen=True, slots=True)
class DecoderSizes:
    """Sizes of a decoder: `num_annotations` vectors of `annotation_size`, which a session looks at."""

    vocabulary_size: int
    num_annotations: int
    annotation_size: int
    embedding_size: int = 32
    hidden_size: int = 64
    attention_size: int = 32

    def __post_init__(self) -> None:
        check_positive(self, *(field.name for field in fields(self)))


class Decoder(nn.Module):
    """Predicts the next token from those before and from annotations.

    Shapes: tokens `[T, B]` int64, `annotations` `[B, L, D]`, `logits` `[T, B, V]`, `attention` `[T, B, L]`, each state
    `[B, hidden_size]`. `projected`, the annotations as attention sees them, and the first states are computed when a
    session opens. The number of annotations is the same for all sessions.

    Weights begin at the sizes of this project's cells and of PyTorch's layers, with an LSTM's forget bias of 1; the
    papers begin with smaller ones, with orthogonal recurrent matrices and without that bias.

    A subclass lists its `state_names`, and what it adds to the signature in `noises` and `more_outputs`.
    """

    state_names: tuple[str, ...] = ()
    noises: tuple[NoiseSpec, ...] = ()
    more_outputs: tuple[OutputSpec, ...] = ()

    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.E = nn.Embedding(sizes.vocabulary_size, sizes.embedding_size, padding_idx=BOUNDARY)
        self.attention = AdditiveAttention(sizes.annotation_size, sizes.hidden_size, sizes.attention_size)

    def signature(self) -> Signature:
        """What `conveyor-export` writes into the file; see `conveyor_export.protocol`."""
        sizes = self.sizes
        seen, projected = (sizes.num_annotations, sizes.annotation_size), (sizes.num_annotations, sizes.attention_size)
        return Signature(
            inputs=(TensorSpec("tokens", "int64", (), STEPS),),
            noises=self.noises,
            contexts=(
                ContextSpec("annotations", "float32", seen, SESSION),
                ContextSpec("projected", "float32", projected, SESSION, initialiser="projected_first"),
            ),
            states=tuple(
                StateSpec(name, "float32", (sizes.hidden_size,), SESSION, f"{name}_out", initialiser=f"{name}_first")
                for name in self.state_names
            ),
            outputs=(
                OutputSpec("logits", "float32", (sizes.vocabulary_size,), STEPS, is_logits=True),
                OutputSpec("attention", "float32", (sizes.num_annotations,), STEPS),
                *self.more_outputs,
            ),
            max_token=sizes.vocabulary_size - 1,
            fixed_steps=1,  # all steps are alike, and a loop over them is no graph
        )

    def initialise(self, contexts: Tensors) -> Tensors:
        """The first states, and the projected annotations."""
        annotations_BLD = contexts["annotations"]
        return {"projected": self.attention.project(annotations_BLD), **self.first_states(annotations_BLD)}

    def forward(self, inputs: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        """Consumes `tokens` from `states` on."""

        def step(timed: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
            return self.step(timed["y"], inputs | timed, states)

        noises = {spec.name: inputs[spec.name] for spec in self.noises}
        return over_steps(step, {"y": self.E(inputs["tokens"]), **noises}, states)

    def first_states(self, annotations_BLD: Tensor) -> Tensors:
        """Each state `[B, N]`."""
        raise NotImplementedError

    def step(self, y_BM: Tensor, seen: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        """One step from the last token's embedding; `seen` holds the contexts, and the step's noises.

        Returns `logits` `[B, V]`, `attention` `[B, L]` and what else is in the signature, and the new states.
        """
        raise NotImplementedError

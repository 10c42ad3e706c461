"""The two forms in which DRAW is served: one paints, the other looks at a client's image and paints that."""

from torch import Tensor, nn

from conveyor.signature import ContextSpec, NoiseSpec, OutputSpec, Signature, StateSpec
from conveyor_export.generative.draw import DRAW
from conveyor_export.generative.window import WINDOW_SIZE
from conveyor_export.protocol import Tensors
from conveyor_export.steps import SESSION, STEPS, over_steps

_PAINTING = ("canvas", "h_dec", "c_dec")


class Paint(nn.Module):
    """Nothing goes in: each step is a glimpse that is drawn from the prior and painted.

    Context `label` `[B, num_classes]`, if there are classes. Noise `epsilon`. Outputs: `picture`, the canvas so far in
    greys from 0 to 1, `[T, B, height, width]`; `window` `[T, B, 5]`, where it was painted: see `window.Window`.
    """

    def __init__(self, draw: DRAW) -> None:
        super().__init__()
        self.draw = draw

    def signature(self) -> Signature:
        """See `conveyor_export.protocol`."""
        return Signature(
            inputs=(),
            noises=(_epsilon(self.draw),),
            contexts=_label(self.draw),
            states=_states(self.draw, _PAINTING),
            outputs=(_picture(self.draw), OutputSpec("window", "float32", (WINDOW_SIZE,), STEPS)),
            fixed_steps=1,
        )

    def forward(self, inputs: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        def step(timed: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
            window, states = self.draw.paint(timed["epsilon"], _given_label(inputs), states)
            return {"picture": states["canvas"].sigmoid(), "window": window.numbers()}, states

        return over_steps(step, {"epsilon": inputs["epsilon"]}, states)


class Look(nn.Module):
    """A client's image is painted anew: each step is a glimpse at it.

    Contexts `image` `[B, height, width]`, greys from 0 to 1, and `label`, if there are classes. Noise `epsilon`.
    Outputs: those of `Paint`, `read_window` `[T, B, 5]` and `kl` `[T, B]`, the glimpse's cost in nats.
    """

    def __init__(self, draw: DRAW) -> None:
        super().__init__()
        self.draw = draw

    def signature(self) -> Signature:
        """See `conveyor_export.protocol`."""
        config = self.draw.config
        image = ContextSpec("image", "float32", (config.height, config.width), SESSION)
        windows = tuple(OutputSpec(name, "float32", (WINDOW_SIZE,), STEPS) for name in ("window", "read_window"))
        return Signature(
            inputs=(),
            noises=(_epsilon(self.draw),),
            contexts=(image, *_label(self.draw)),
            states=_states(self.draw, tuple(self.draw.first_states())),
            outputs=(_picture(self.draw), *windows, OutputSpec("kl", "float32", (), STEPS)),
            fixed_steps=1,
        )

    def forward(self, inputs: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        def step(timed: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
            found, states = self.draw.look(inputs["image"], _given_label(inputs), timed["epsilon"], states)
            return found | {"picture": states["canvas"].sigmoid()}, states

        return over_steps(step, {"epsilon": inputs["epsilon"]}, states)


def _epsilon(draw: DRAW) -> NoiseSpec:
    return NoiseSpec("epsilon", "float32", (draw.config.latent_size,), STEPS)


def _label(draw: DRAW) -> tuple[ContextSpec, ...]:
    num_classes = draw.config.num_classes
    return (ContextSpec("label", "float32", (num_classes,), SESSION),) if num_classes else ()


def _given_label(inputs: Tensors) -> Tensor:
    epsilon = inputs["epsilon"]
    return inputs.get("label", epsilon.new_zeros(epsilon.shape[1], 0))


def _picture(draw: DRAW) -> OutputSpec:
    return OutputSpec("picture", "float32", (draw.config.height, draw.config.width), STEPS)


def _states(draw: DRAW, names: tuple[str, ...]) -> tuple[StateSpec, ...]:
    first = draw.first_states()
    return tuple(
        StateSpec(
            name,
            "float32",
            tuple(first[name].shape),
            SESSION,
            output=f"{name}_out",
            initial=tuple(first[name].flatten().tolist()),
        )
        for name in names
    )

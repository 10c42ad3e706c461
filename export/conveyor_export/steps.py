"""Takes a step of a model along the time axis. Exported, it is a graph of one step, as all of them are alike."""

from collections.abc import Callable

import torch

from conveyor.signature import Axis
from conveyor_export.protocol import Tensors

Step = Callable[[Tensors, Tensors], tuple[Tensors, Tensors]]
# Where axes lie in what has a value for each step, and in what a session has one of.
STEPS, SESSION = Axis(batch=1, time=0), Axis(batch=0)


def over_steps(step: Step, timed: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
    """The outputs of each step, `[T, B, ...]`, and the states after the last; `timed` holds `[T, B, ...]` as well."""
    outputs: list[Tensors] = []
    for values in zip(*(tensor.unbind() for tensor in timed.values()), strict=True):
        output, states = step(dict(zip(timed, values, strict=True)), states)
        outputs.append(output)
    return {name: torch.stack([output[name] for output in outputs]) for name in outputs[0]}, states

"""The protocol of a module that `conveyor-export` can export: named tensors in, named tensors and new states out."""

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from conveyor.signature import Signature
from conveyor_export.errors import SourceError

Tensors = dict[str, Tensor]


@runtime_checkable
class RecurrentModule(Protocol):
    """A module whose state is an argument and a result. Anything of this shape will do; there is nothing to inherit.

    `inputs` holds the signature's stream inputs and contexts, `states` its states, each under its name there. The
    result is (outputs, new states), the new states under the states' own names. Axes lie where the signature's `axis`
    says; time first (`[T, B, ...]`) is the habit. T steps at once must equal the same steps in smaller chunks.

    Example:
        >>> class RunningSum(nn.Module):
        ...     def signature(self):
        ...         steps = Axis(batch=1, time=0)
        ...         return Signature(
        ...             inputs=(TensorSpec("features", "float32", (8,), steps),),
        ...             states=(StateSpec("sum", "float32", (8,), Axis(batch=0), output="sum_out"),),
        ...             outputs=(OutputSpec("sums", "float32", (8,), steps),),
        ...         )
        ...
        ...     def forward(self, inputs, states):
        ...         sums_TBF = states["sum"] + inputs["features"].cumsum(0)
        ...         return {"sums": sums_TBF}, {"sum": sums_TBF[-1]}
    """

    def signature(self) -> Signature:
        """Describes the tensors. A plain attribute of this name does as well."""

    def forward(self, inputs: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        """Consumes the steps of `inputs` from `states` on."""


def signature_of(module: nn.Module) -> Signature:
    """The module's own description.

    Raises:
        SourceError: it has none.
    """
    signature = getattr(module, "signature", None)
    if callable(signature):
        signature = signature()
    if not isinstance(signature, Signature):
        raise SourceError(f"{type(module).__name__}: signature: expected a conveyor.signature.Signature")
    return signature

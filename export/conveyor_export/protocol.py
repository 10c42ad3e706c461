"""The protocol of a module that `conveyor-export` can export: named tensors in, named tensors and new states out."""

from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from conveyor.signature import Signature
from conveyor_export.errors import SourceError
from conveyor_export.reasons import whole_reason
from conveyor_export.shapes import has_time

Tensors = dict[str, Tensor]


@runtime_checkable
class RecurrentModule(Protocol):
    """A module whose state is an argument and a result. Anything of this shape will do; there is nothing to inherit.

    `inputs` holds the signature's stream inputs, noises and contexts, `states` its states, each under its name there.
    The result is (outputs, new states), the new states under the states' own names. Axes lie where the signature's
    `axis` says; time first (`[T, B, ...]`) is the habit. T steps at once must equal the same steps in smaller chunks.

    A module whose signature has initialisers has another method, `initialise(contexts)`: it takes the contexts that a
    client gives, under their names, and returns one dict with the states and contexts that are computed from them,
    each under its own name. It becomes a part of the same graph.

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
        SourceError: it has none, or one that the server would not read.
    """
    kind = type(module).__name__
    try:
        found = getattr(module, "signature", None)
        found = found() if callable(found) else found
    except Exception as error:  # the user's code may raise anything
        raise SourceError(f"{kind}: signature: {whole_reason(error)}") from error
    if not isinstance(found, Signature):
        raise SourceError(f"{kind}: signature: expected a conveyor.signature.Signature")
    return _as_served(kind, found)


@torch.no_grad()
def call_module(module: nn.Module, inputs: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
    """The module's outputs and new states, computed eagerly.

    Raises:
        SourceError: it raises something, or returns something else than two dicts of named tensors.
    """
    kind = type(module).__name__
    try:
        result = module(inputs, states)
    except Exception as error:  # the user's code may raise anything
        raise SourceError(f"{kind}: forward: {whole_reason(error)}{_hint(error, inputs)}") from error
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise SourceError(f"{kind}: forward: expected a pair (outputs, new states), got {_describe(result)}")
    _check_tensors(f"{kind}: forward: outputs", result[0])
    _check_tensors(f"{kind}: forward: new states", result[1])
    return result[0], result[1]


@torch.no_grad()
def call_initialise(module: nn.Module, contexts: Tensors) -> Tensors:
    """First states and computed contexts by their own names, computed eagerly from the contexts that a client gives.

    Raises:
        SourceError: there is no such method, or it raises something or returns no dict of named tensors.
    """
    kind = type(module).__name__
    initialise = getattr(module, "initialise", None)
    if not callable(initialise):
        raise SourceError(f"{kind}: initialise: the signature has initialisers, so the module needs this method")
    try:
        result = initialise(contexts)
    except Exception as error:  # the user's code may raise anything
        raise SourceError(f"{kind}: initialise: {whole_reason(error)}") from error
    _check_tensors(f"{kind}: initialise", result)
    tensors: Tensors = result
    return tensors


def _hint(error: Exception, inputs: Tensors) -> str:
    # What an embedding raises that has no such row tells nothing of tokens.
    has_tokens = not all(tensor.is_floating_point() for tensor in inputs.values())
    is_likely = isinstance(error, IndexError) and has_tokens
    return " (does the signature's max_token go beyond the embedding?)" if is_likely else ""


def _as_served(kind: str, signature: Signature) -> Signature:
    """The signature as the server reads it back from the file: what that refuses is told before any proof."""
    try:
        read = Signature.from_json(signature.to_json())
    except (TypeError, ValueError) as error:
        raise SourceError(f"{kind}: signature: {str(error).removeprefix('signature: ')}") from error
    if read.takes_tokens and read.max_token is None:
        raise SourceError(f"{kind}: signature: max_token: a model of tokens has to say which is the last")
    return replace(read, fixed_steps=read.fixed_steps or (None if has_time(read) else 1))


def _check_tensors(where: str, tensors: Any) -> None:
    if not isinstance(tensors, dict):
        raise SourceError(f"{where}: expected a dict of tensors by name, got {_describe(tensors)}")
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise SourceError(f"{where}: expected names, got {name!r}")
        if not isinstance(tensor, Tensor):
            raise SourceError(f"{where}: {name}: expected a tensor, got {_describe(tensor)}")


def _describe(value: Any) -> str:
    length = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return f"{type(value).__name__}{length}"

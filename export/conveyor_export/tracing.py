"""Turns a module into an ONNX graph with the signature's names and with symbolic `B` and, where it can be, `T`."""

import contextlib
import copy
import io
import logging
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from conveyor.signature import Signature, TensorSpec
from conveyor_export.errors import ExportError, TraceFailed
from conveyor_export.reasons import first_line
from conveyor_export.recurrent_layers import replace_layers
from conveyor_export.shapes import full_shape, initial_states, random_inputs

# Lengths of the example: 0 and 1 would be taken for constants.
_NUM_STEPS, _NUM_SESSIONS = 5, 3

# Of an axis that cannot be free, torch says no more in its first line; why is the first point of a list below.
_VIOLATION = re.compile(r"Constraints violated.*\n *- (.{1,400}?)(?:\. |\n|$)")


@dataclass(frozen=True, slots=True)
class Trace:
    """A graph and the signature that holds for it; `notice` tells the user why it takes single steps only, if so."""

    model: onnx.ModelProto
    signature: Signature
    notice: str = ""


class _Positional(nn.Module):
    """The module with a flat argument list, as graphs have it; with `half` it computes in float16 between its ends."""

    def __init__(self, module: nn.Module, signature: Signature, half: bool) -> None:
        super().__init__()
        self.module, self.signature, self.half_inside = module, signature, half

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        if self.half_inside:
            tensors = tuple(t.half() if t.is_floating_point() else t for t in tensors)
        names = [spec.name for spec in self.signature.fed]
        state_names = [state.name for state in self.signature.states]
        inputs = dict(zip(names, tensors[: len(names)], strict=True))
        states = dict(zip(state_names, tensors[len(names) :], strict=True))
        outputs, new_states = self.module(inputs, states)
        results = [outputs[spec.name] for spec in self.signature.outputs] + [new_states[name] for name in state_names]
        results += self._initialise(inputs)
        # A float64 output stays one: only what was made float16 above goes back.
        return tuple(t.float() if self.half_inside and t.dtype == torch.float16 else t for t in results)

    def _initialise(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        """What a session opens with. Only the given contexts lead there, so it can be cut out of the graph again."""
        if not self.signature.initialisers:
            return []
        initialise: Any = self.module.initialise
        found = initialise({context.name: inputs[context.name] for context in self.signature.given_contexts})
        return [found[spec.name] for spec in self.signature.initialisers.values()]


def trace(module: nn.Module, signature: Signature, opset: int, half: bool = False) -> Trace:
    """Traces with a dynamic time axis, or, where the module does not allow that, as a graph of one step.

    Raises:
        UnsupportedLayer: see `replace_layers`.
        TraceFailed: neither can be had.
    """
    traced = replace_layers(copy.deepcopy(module), opset)
    positional = _Positional(traced.half() if half else traced, signature, half).eval()
    if signature.fixed_steps is not None:
        return Trace(_trace(positional, signature, opset), signature)
    try:
        return Trace(_trace(positional, signature, opset), signature)
    except TraceFailed as reason:
        single = replace(signature, fixed_steps=1)
        return Trace(_trace(positional, single, opset), single, f"one step per run: {reason}")


def _trace(positional: _Positional, signature: Signature, opset: int) -> onnx.ModelProto:
    state_names = [state.name for state in signature.states]
    with _quiet():
        try:
            program = torch.onnx.export(
                _export(positional, signature),
                dynamo=True,
                opset_version=opset,
                verbose=False,
                external_data=False,
                input_names=[spec.name for spec in signature.fed] + state_names,
                output_names=_output_names(signature),
            )
        except ExportError:
            raise
        except Exception as error:  # torch raises most of Python's and a dozen of its own
            raise TraceFailed(_reason(error)) from error
    assert program is not None  # noqa: S101  # None is the old exporter's answer; this tells mypy
    return _clean(program.model_proto, signature)


def _output_names(signature: Signature) -> list[str]:
    names = [output.name for output in signature.outputs] + [state.output for state in signature.states]
    return [*names, *signature.initialisers]


def _export(positional: _Positional, signature: Signature) -> torch.export.ExportedProgram:
    rng = torch.Generator().manual_seed(0)
    num_steps = signature.fixed_steps or _NUM_STEPS
    inputs = random_inputs(signature, _NUM_SESSIONS, num_steps, rng)
    examples = (*inputs.values(), *initial_states(signature, _NUM_SESSIONS).values())
    # Named dimensions: torch then refuses to fix one, where an automatic one would be fixed in silence.
    batch, time = torch.export.Dim("B"), None if signature.fixed_steps else torch.export.Dim("T")
    axes = tuple(_dynamic_axes(spec, batch, time) for spec in (*signature.fed, *signature.states))
    return torch.export.export(positional, examples, dynamic_shapes=(axes,), strict=False)


def _dynamic_axes(spec: TensorSpec, batch: Any, time: Any) -> dict[int, Any]:
    axes = ((spec.axis.batch, batch), (spec.axis.time, time))
    return {axis: dimension for axis, dimension in axes if axis is not None and dimension is not None}


def _clean(model: onnx.ModelProto, signature: Signature) -> onnx.ModelProto:
    """Names the symbolic dimensions `T` and `B`, and drops what the exporter noted of this machine's source files."""
    symbols = _symbols(model, signature)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = symbols.get(dim.dim_param, dim.dim_param)
    del model.graph.value_info[:]
    parts: Any = (model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer)
    for part in parts:
        del part.metadata_props[:]
        part.doc_string = ""
    for function in model.functions:
        del function.metadata_props[:]
    return model


def _symbols(model: onnx.ModelProto, signature: Signature) -> dict[str, str]:
    inputs = {value.name: value for value in model.graph.input}
    symbols = {}
    for spec in (*signature.fed, *signature.states):
        if spec.name in inputs:
            dims = inputs[spec.name].type.tensor_type.shape.dim
            for dim, length in zip(dims, full_shape(spec, "B", "T"), strict=False):
                if dim.dim_param and isinstance(length, str):
                    symbols[dim.dim_param] = length
    return symbols


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's chatter (missing torchvision, its own deprecations, whole graphs) from the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.fx.experimental.symbolic_shapes")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """The sentence that says why; torch's exporter wraps it in advice."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    point = _VIOLATION.match(str(error))
    return f"{type(error).__name__}: {point[1] if point else first_line(error)}"

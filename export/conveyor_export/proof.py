"""Proves that a graph is its module: names, then shapes, then values in one pass, step by step and in uneven chunks."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import onnx
import torch
from onnx import TensorProto, ValueInfoProto
from torch import Tensor, nn

from conveyor.signature import Signature, TensorSpec
from conveyor_export.cases import Case, cut, given, make_cases, make_plans
from conveyor_export.errors import DtypeMismatch, NameMismatch, ShapeMismatch, ValueMismatch
from conveyor_export.protocol import Tensors, call_initialise, call_module, signature_of
from conveyor_export.runtime import Arrays, GraphRunner, InitialiserRunner
from conveyor_export.shapes import full_shape, has_batch, random_inputs

DEFAULT_TOLERANCE = 1e-4

_OPENING = "at their opening"


@dataclass(frozen=True, slots=True)
class Proof:
    """What was compared. `largest_value` puts the difference in proportion.

    `by_plan` has the largest difference of each way to cut the steps, as `conveyor_export.cases` calls them.
    """

    num_runs: int
    difference: float
    where: str
    largest_value: float
    by_plan: dict[str, float]

    def __str__(self) -> str:
        return f"largest difference {self.difference:.2g} ({self.where}; values up to {self.largest_value:.3g})"


def prove_module(module: nn.Module, signature: Signature) -> None:
    """Runs the module eagerly once and holds what it returns against its own signature.

    Raises:
        SourceError: it does not run, or does not follow the protocol.
        NameMismatch, DtypeMismatch, ShapeMismatch: it returns something else.
    """
    _prove_initialise(module, signature)
    case = next(make_cases(module, signature))
    num_steps = signature.fixed_steps or case.num_steps
    inputs = _with_last_tokens(signature, cut(signature, case.inputs, 0, num_steps))
    outputs, states = call_module(module, inputs, case.states)
    _check_names("the module's result", {o.name for o in signature.outputs}, set(outputs))
    _check_names("the module's new states", {s.name for s in signature.states}, set(states))
    for spec, tensor in _results(signature, outputs, states):
        _check_dtype(spec.name, spec.dtype, str(tensor.dtype).removeprefix("torch."))
        _check_shape(spec.name, full_shape(spec, case.num_sessions, num_steps), tuple(tensor.shape))


def prove_same(module: nn.Module, original: nn.Module, tolerance: float) -> None:
    """Holds a module of one step a run against the one that it was made from, both eager; it may give more outputs.

    Raises:
        SourceError: one of them does not run.
        ValueMismatch: an output or a state of the original differs.
    """
    signature, expected_signature = signature_of(module), signature_of(original)
    worst = (0.0, "")
    for case in make_cases(original, expected_signature):
        expected = _run_module(original, expected_signature, case, _whole(expected_signature.fixed_steps, case))
        got = _run_module(module, signature, case, (1,) * case.num_steps)
        difference, name = _largest_difference(expected, got)
        worst = max(worst, (difference, f"{name}, {case.num_sessions} sessions, {case.num_steps} steps, {case.origin}"))
    if not worst[0] <= tolerance:
        raise ValueMismatch(*worst, tolerance)


def prove_graph(
    model: onnx.ModelProto, module: nn.Module, signature: Signature, tolerance: float, own_steps: int | None = None
) -> Proof:
    """Holds a graph against the module run eagerly; `own_steps` is the only chunk length that the module itself takes.

    Raises:
        ProofError: one subclass for each way to differ.
    """
    _prove_boundary(model, signature)
    worst, largest, num_runs = (0.0, ""), 0.0, 0
    by_plan: dict[str, float] = {}
    for each in _comparisons(model, module, signature, own_steps):
        largest = max([largest, *(_magnitude(array) for array in each.expected.values())])
        difference, name = _largest_difference(each.expected, each.got)
        worst = max(worst, (difference, f"{name}, {each.where}"))
        by_plan[each.plan] = max(by_plan.get(each.plan, 0.0), difference)
        num_runs += each.num_runs
    if not worst[0] <= tolerance:
        raise ValueMismatch(*worst, tolerance)
    return Proof(num_runs, *worst, largest, by_plan)


@dataclass(frozen=True, slots=True)
class _Comparison:
    """What the module gives and what the graph does, in how many of its runs."""

    expected: Arrays
    got: Arrays
    plan: str
    where: str
    num_runs: int


def _comparisons(
    model: onnx.ModelProto, module: nn.Module, signature: Signature, own_steps: int | None
) -> Iterator[_Comparison]:
    runner = GraphRunner(model, signature)
    opening = InitialiserRunner(model, signature) if signature.initialisers else None
    for case in make_cases(module, signature):
        sessions = f"{case.num_sessions} sessions"
        if opening:
            opened = _open(module, opening, given(signature, case.inputs))
            yield _Comparison(*opened, _OPENING, f"{sessions} {_OPENING}", 1)
        expected = _run_module(module, signature, case, _whole(own_steps, case))
        for plan, chunks in make_plans(signature, case):
            got = _run_graph(runner, signature, case, chunks)
            where = f"{sessions}, {case.num_steps} steps {plan}, {case.origin}"
            yield _Comparison(expected, got, plan, where, len(chunks))


def _whole(own_steps: int | None, case: Case) -> tuple[int, ...]:
    """The fewest chunks that a module of so many steps a run takes a case in."""
    return (own_steps,) * (case.num_steps // own_steps) if own_steps else (case.num_steps,)


def _open(module: nn.Module, opening: InitialiserRunner, contexts: Tensors) -> tuple[Arrays, Arrays]:
    """First states and computed contexts, the module's and the graph's, as `first NAME`."""
    expected = {f"first {name}": tensor.numpy() for name, tensor in call_initialise(module, contexts).items()}
    got = opening.run({name: tensor.numpy() for name, tensor in contexts.items()})
    return expected, {f"first {name}": array for name, array in got.items()}


def _prove_initialise(module: nn.Module, signature: Signature) -> None:
    if not signature.initialisers:
        return
    for num_sessions in (2, 1) if has_batch(signature) else (1,):
        _prove_initialise_of(module, signature, num_sessions)


def _prove_initialise_of(module: nn.Module, signature: Signature, num_sessions: int) -> None:
    specs = {spec.name: spec for spec in signature.initialisers.values()}
    contexts = given(signature, random_inputs(signature, num_sessions, 1, torch.Generator().manual_seed(0)))
    found = call_initialise(module, contexts)
    _check_names("what the module initialises", set(specs), set(found))
    for name, tensor in found.items():
        _check_dtype(name, specs[name].dtype, str(tensor.dtype).removeprefix("torch."))
        _check_shape(name, full_shape(specs[name], num_sessions, 1), tuple(tensor.shape))


def _with_last_tokens(signature: Signature, inputs: Tensors) -> Tensors:
    """The last token everywhere: random ones may not find an embedding that is one row short."""
    if signature.max_token is None:
        return inputs
    last = signature.max_token
    return {name: t if t.is_floating_point() else torch.full_like(t, last) for name, t in inputs.items()}


def _prove_boundary(model: onnx.ModelProto, signature: Signature) -> None:
    """Reads names, types and axes back from the graph, so that nothing rests on what the exporter was asked for."""
    ins = {value.name: value for value in model.graph.input}
    outs = {value.name: value for value in model.graph.output}
    inputs: dict[str, TensorSpec] = {spec.name: spec for spec in (*signature.fed, *signature.states)}
    outputs: dict[str, TensorSpec] = {spec.name: spec for spec in signature.outputs}
    outputs |= {state.output: state for state in signature.states} | signature.initialisers
    _check_names("the graph's inputs: it", set(inputs), set(ins))
    _check_names("the graph's outputs: it", set(outputs), set(outs))
    for name, spec in inputs.items():
        _check_value(ins[name], spec, signature)
    for name, spec in outputs.items():
        _check_value(outs[name], spec, signature)


def _check_value(value: ValueInfoProto, spec: TensorSpec, signature: Signature) -> None:
    tensor = value.type.tensor_type
    dtypes = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}
    expected_type = dtypes.get(spec.dtype) or TensorProto.DataType.Value(spec.dtype.upper())
    if tensor.elem_type != expected_type:
        raise DtypeMismatch(value.name, spec.dtype, TensorProto.DataType.Name(tensor.elem_type).lower())
    got = tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
    expected = full_shape(spec, "B", signature.fixed_steps or "T")
    hint = ""
    if len(got) == len(expected):
        fixed = [want for want, have in zip(expected, got, strict=True) if isinstance(want, str) and want != have]
        hint = f"the graph was specialised: {', '.join(map(str, fixed))} is not free" if fixed else ""
    _check_shape(value.name, expected, got, hint)


def _check_names(where: str, expected: set[str], got: set[str]) -> None:
    if expected != got:
        raise NameMismatch(where, expected - got, got - expected)


def _check_dtype(name: str, expected: str, got: str) -> None:
    if expected != got:
        raise DtypeMismatch(name, expected, got)


def _check_shape(name: str, expected: tuple[object, ...], got: tuple[object, ...], hint: str = "") -> None:
    if expected != got:
        raise ShapeMismatch(name, expected, got, hint)


def _results(signature: Signature, outputs: Tensors, states: Tensors) -> Iterator[tuple[TensorSpec, Tensor]]:
    yield from ((spec, outputs[spec.name]) for spec in signature.outputs)
    yield from ((spec, states[spec.name]) for spec in signature.states)


def _run_module(module: nn.Module, signature: Signature, case: Case, chunks: tuple[int, ...]) -> Arrays:
    states, parts = case.states, []
    for start, stop in pairwise((0, *accumulate(chunks))):
        outputs, states = call_module(module, cut(signature, case.inputs, start, stop), states)
        parts.append({name: tensor.numpy() for name, tensor in outputs.items()})
    return _join(signature, parts, {name: tensor.numpy() for name, tensor in states.items()})


def _run_graph(runner: GraphRunner, signature: Signature, case: Case, chunks: tuple[int, ...]) -> Arrays:
    states, parts = {name: tensor.numpy() for name, tensor in case.states.items()}, []
    for start, stop in pairwise((0, *accumulate(chunks))):
        inputs = cut(signature, case.inputs, start, stop)
        outputs, states = runner.run({name: tensor.numpy() for name, tensor in inputs.items()}, states)
        for spec in signature.outputs:
            _check_shape(spec.name, full_shape(spec, case.num_sessions, stop - start), outputs[spec.name].shape)
        for state in signature.states:
            _check_shape(state.output, full_shape(state, case.num_sessions, 1), states[state.name].shape)
        parts.append(outputs)
    return _join(signature, parts, states)


def _join(signature: Signature, parts: list[Arrays], states: Arrays) -> Arrays:
    """Outputs over all chunks (those without a time axis: the last one's), and the final states as `new NAME`."""
    joined = {f"new {name}": array for name, array in states.items()}
    for spec in signature.outputs:
        arrays = [part[spec.name] for part in parts]
        joined[spec.name] = arrays[-1] if spec.axis.time is None else np.concatenate(arrays, axis=spec.axis.time)
    return joined


def _largest_difference(expected: Arrays, got: Arrays) -> tuple[float, str]:
    return max(((difference, name) for name, difference in differences(expected, got)), default=(0.0, ""))


def differences(expected: Arrays, got: Arrays) -> Iterator[tuple[str, float]]:
    """The largest absolute difference by name; infinite where one of both is no number.

    Raises:
        ShapeMismatch: two arrays of one name have different shapes.
    """
    for name, array in expected.items():
        a, b = array.astype(np.float64), got[name].astype(np.float64)
        if a.shape != b.shape:
            raise ShapeMismatch(name, a.shape, b.shape)
        with np.errstate(invalid="ignore"):
            difference = np.where(a == b, 0.0, np.abs(a - b))
        # A NaN compares false with everything: let it count as the worst difference there is.
        yield name, float(np.nan_to_num(difference, nan=np.inf).max(initial=0.0))


def _magnitude(array: np.ndarray) -> float:
    return float(np.abs(array.astype(np.float64)).max(initial=0.0))

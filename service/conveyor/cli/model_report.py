"""What `inspect` tells of a model file. Imports the server's libraries."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from conveyor.cli.signature_report import section
from conveyor.cli.table import format_bytes, format_table
from conveyor.engine.limits import Device
from conveyor.engine.ort import make_session, node_placement
from conveyor.engine.trial import Bounds, try_file
from conveyor.graph.errors import ModelError
from conveyor.graph.model_file import ModelFile, read_model
from conveyor.graph.placement import CUDA, NodePlacement, cuda_placement
from conveyor.graph.serving import Scatter, ServingGraph, build_serving_graph
from conveyor.signature import Axis, ContextSpec, OutputSpec, Signature, StateSpec, TensorSpec

MAX_CELL = 90


def describe_file(path: Path, *, all_nodes: bool = False) -> str:
    """A report of one ONNX file.

    Raises:
        ModelError: it cannot be read or served.
    """
    model, problem = _tried(read_model(path), path)
    graph = build_serving_graph(model, num_rows=None, scatter=Scatter.ND)
    parts = (
        _summary(path, model),
        _tensors(model),
        section("proposed from the graph", model.decisions) if model.decisions else "",
        _batching(graph, model),
        section("cannot be served", [problem]) if problem else _on_cpu(graph),
        _on_cuda(graph, all_nodes),
        _provenance(model.provenance),
    )
    return "\n\n".join(part for part in parts if part)


def _tried(model: ModelFile, path: Path) -> tuple[ModelFile, str]:
    """The model with what a server would find out of it, and what would keep the server from serving it.

    What conveyor-export has written was tried there.
    """
    if model.source == "metadata":
        return model, ""
    try:
        verdict = asyncio.run(try_file(path, Bounds()))
    except ModelError as error:
        return model, str(error)
    return replace(model, alone_because=verdict.alone_because), ""


def _summary(path: Path, model: ModelFile) -> str:
    weights = sum(len(tensor.raw_data) for tensor in model.proto.graph.initializer)
    vocabulary = f"{len(model.vocabulary)} tokens" if model.vocabulary else "none"
    return "\n".join(
        (
            str(path),
            f"  fingerprint  {model.fingerprint}",
            f"  signature    {model.source}",
            f"  weights      {format_bytes(weights)}",
            f"  state        {format_bytes(model.signature.state_bytes)} per session",
            f"  context      {format_bytes(model.signature.context_bytes)} per session",
            f"  vocabulary   {vocabulary}",
            f"  heads        {_heads(model.signature)}",
        )
    )


def _heads(signature: Signature) -> str:
    """What answers may be made of."""
    heads = ["whole outputs"]
    if signature.logits:
        heads.append(f"top-k of {signature.logits.name}")
    if signature.logits and signature.takes_tokens:
        heads += ["log-probability of given tokens", "sampling"]
    return ", ".join(heads)


def _tensors(model: ModelFile) -> str:
    signature = model.signature
    rows = [
        *(_row("input", each) for each in signature.inputs),
        *(_row("noise", each, each.distribution) for each in signature.noises),
        *(_row("state", each, _state_note(each)) for each in signature.states),
        *(_row("output", each, _output_note(each)) for each in signature.outputs),
        *(_row("context", each, _context_note(each)) for each in signature.contexts),
    ]
    return format_table(("ROLE", "NAME", "DTYPE", "SHAPE", "AXES", "BYTES", ""), rows, "  ")


def _row(role: str, spec: TensorSpec, note: str = "") -> tuple[str, ...]:
    shape = str(list(spec.shape))
    return (role, spec.name, spec.dtype, shape, _axes(spec.axis), str(spec.num_bytes), note)


def _state_note(spec: StateSpec) -> str:
    return f"-> {spec.output}{'; ' + _first(spec.initialiser) if spec.initialiser else ''}"


def _context_note(spec: ContextSpec) -> str:
    if spec.default is not None:
        return f"{', '.join(f'{value:g}' for value in spec.default)} unless a session has its own"
    return _first(spec.initialiser)


def _output_note(spec: OutputSpec) -> str:
    if spec.is_logits:
        return "scores the vocabulary"
    return "on request" if spec.is_optional else ""


def _first(initialiser: str) -> str:
    return f"computed once as {initialiser}" if initialiser else ""


def _axes(axis: Axis) -> str:
    named = (("time", axis.time), ("batch", axis.batch))
    return ", ".join(f"{name} {place}" for name, place in named if place is not None) or "none"


def _batching(graph: ServingGraph, model: ModelFile) -> str:
    if not graph.can_batch:
        unbatched = [f"{spec.name} has no batch axis" for spec in graph.signature.unbatched]
        lines = [f"one session in a run: {[*unbatched, model.alone_because][0]}"]
    elif graph.is_ragged:
        lines = ["chunks of any lengths run together"]
    else:
        lines = ["chunks of equal lengths run together", f"not of any lengths: {graph.not_ragged_because}"]
    if graph.signature.constants:
        shared = ", ".join(context.name for context in graph.signature.constants)
        lines.append(f"only sessions of one {shared} run together")
    if graph.max_steps is not None:
        lines.append(f"at most {graph.max_steps} steps in a run")
    if graph.batch_dependent_ops:
        operators = ", ".join(graph.batch_dependent_ops)
        lines.append(f"answers depend, within rounding, on the others in a run: {operators}")
    return section("batching", lines)


def _on_cpu(graph: ServingGraph) -> str:
    session = make_session(graph.proto.SerializeToString(), Device(provider="cpu"), 1)
    placed = node_placement(session)
    counts = Counter(node.op_type for node in placed)
    lines = [f"{len(placed)} nodes once optimised, as ONNX Runtime tells: {_counted(counts)}"]
    return section("on the CPU", lines)


def _on_cuda(graph: ServingGraph, all_nodes: bool) -> str:
    nodes = cuda_placement(graph.proto)
    away = [node for node in nodes if node.provider != CUDA]
    lines = [f"{len(nodes) - len(away)} of {len(nodes)} nodes, by the rules of ONNX Runtime's CUDA provider"]
    shown: Sequence[NodePlacement] = nodes if all_nodes else away
    rows = [(node.name or "(unnamed)", node.op_type, node.provider.removesuffix("ExecutionProvider")) for node in shown]
    text = section("on CUDA", lines)
    if not shown:
        return text
    reasons = [(*row, node.reason) for row, node in zip(rows, shown, strict=True)]
    return f"{text}\n{format_table(('NODE', 'OPERATOR', 'RUNS ON', ''), reasons, '    ')}"


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" if number > 1 else name for name, number in counts.most_common())


def _provenance(provenance: dict[str, Any]) -> str:
    lines = [f"{key}: {_short(value)}" for key, value in provenance.items()]
    return section("provenance", lines) if lines else ""


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= MAX_CELL else f"{text[:MAX_CELL]}..."

"""Exports a module to one ONNX file that Conveyor serves, and writes it only once it is proven equal."""

import copy
import datetime
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from torch import nn

from conveyor.graph import ModelError, model_from_proto
from conveyor.signature import Signature
from conveyor_export.errors import GraphRefused, SourceError, UnsupportedOption
from conveyor_export.gates import GatedLanguageModel
from conveyor_export.metadata import write_metadata
from conveyor_export.precision import Precision, quantize, round_weights, store_half
from conveyor_export.proof import DEFAULT_TOLERANCE, Proof, prove_graph, prove_module, prove_same
from conveyor_export.protocol import signature_of
from conveyor_export.reasons import whole_reason
from conveyor_export.report import ExportReport
from conveyor_export.scoring import ScoredText, bits_per_character, encode_text
from conveyor_export.tracing import Trace, trace

# torch writes 18 and newer; from 22 on, releases of ONNX Runtime differ in whether LSTM, GRU and RNN run on CUDA.
OPSETS = range(18, 22)
DEFAULT_OPSET = 20

_PACKAGES = ("torch", "onnx", "onnxscript")

# How far a smaller form may stray, as a share of the largest value; what is beyond is a broken model, not a coarse one.
_COARSE_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """How to export. `tolerance` is the largest absolute difference from PyTorch that the float32 graph may show.

    `gates` makes a language model of LSTM layers also give their gates, as outputs on request; see
    `conveyor_export.gates`.
    """

    opset: int = DEFAULT_OPSET
    precision: Precision = Precision.FLOAT32
    tolerance: float = DEFAULT_TOLERANCE
    gates: bool = False

    def __post_init__(self) -> None:
        if self.opset not in OPSETS:
            raise UnsupportedOption(f"opset: expected {OPSETS[0]} to {OPSETS[-1]}, got {self.opset}")
        if not self.tolerance > 0:
            raise UnsupportedOption(f"tolerance: expected a positive number, got {self.tolerance}")


@dataclass(frozen=True, slots=True)
class _Form:
    """A graph on its way to the file. `exact` is the float32 graph of the unchanged module."""

    model: onnx.ModelProto
    exact: onnx.ModelProto
    signature: Signature
    proof: Proof
    cost: Proof | None
    notice: str


def export_model(
    module: nn.Module,
    path: str | Path,
    *,
    vocabulary: Sequence[str] | None = None,
    options: ExportOptions = ExportOptions(),
    text: str | None = None,
    provenance: dict[str, Any] | None = None,
) -> ExportReport:
    """Writes `module`, which follows `conveyor_export.protocol`, to one ONNX file; the module is left as it was.

    Example:
        >>> from conveyor_export import ExportOptions, Precision, export_model
        >>> half = ExportOptions(precision=Precision.HALF)
        >>> report = export_model(model, "models/mine/1/model.onnx", vocabulary=symbols, options=half)
        >>> print(report)

    `vocabulary` is the text of each token id, entry 0 standing for the unknown. `text` is scored before and after a
    change of precision. `provenance` is kept in the file.

    Raises:
        ExportError: one subclass for each reason; no file is written then.
        OSError: the file cannot be written.
    """
    path = Path(path)
    _check_path(path)
    _check_provenance(provenance or {})
    module = _frozen_copy(module)
    if options.gates:
        module = _with_gates(module, options.tolerance)
    signature = signature_of(module)
    _check_vocabulary(signature, vocabulary)
    scored = None if text is None else encode_text(signature, vocabulary, text)
    prove_module(module, signature)
    form = _make_form(module, signature, options)
    scores = _score(form, scored)
    facts = _provenance(form, scores, options, provenance or {})
    write_metadata(form.model, form.signature, vocabulary, facts)
    num_bytes = _write(form.model, path)
    num_parameters = sum(parameter.numel() for parameter in module.parameters())
    return ExportReport(
        path,
        form.signature,
        options.precision,
        num_parameters,
        num_bytes,
        form.proof,
        form.cost,
        scores,
        form.notice,
    )


def _check_path(path: Path) -> None:
    """Tells of a place that cannot be written to before the proof, which takes its time."""
    if path.is_dir():
        raise OSError(f"{path}: is a folder; give the name of the file to write")
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise OSError(f"{nearest}: is not a folder that can be written to")


def _check_provenance(provenance: dict[str, Any]) -> None:
    try:
        json.dumps(provenance)
    except (TypeError, ValueError) as error:
        raise SourceError(f"provenance: {error}") from error


def _frozen_copy(module: nn.Module) -> nn.Module:
    if not isinstance(module, nn.Module):
        raise SourceError(f"expected a torch.nn.Module, got {type(module).__name__}")
    try:
        return copy.deepcopy(module).cpu().eval().requires_grad_(False)
    except Exception as error:  # the user's module may hold anything
        raise SourceError(f"{type(module).__name__}: cannot be copied: {whole_reason(error)}") from error


def _with_gates(module: nn.Module, tolerance: float) -> nn.Module:
    gated = GatedLanguageModel(module).eval().requires_grad_(False)
    prove_same(gated, module, tolerance)
    return gated


def _check_vocabulary(signature: Signature, vocabulary: Sequence[str] | None) -> None:
    if vocabulary is None:
        return
    if signature.logits is None or not signature.takes_tokens:
        raise SourceError("vocabulary: only a model of tokens with an output marked `is_logits` has one")
    if (num_logits := signature.logits.shape[-1]) != len(vocabulary):
        raise SourceError(f"vocabulary: has {len(vocabulary)} entries, the model scores {num_logits}")
    _check_symbols(vocabulary)


def _check_symbols(vocabulary: Sequence[str]) -> None:
    """Text can be cut neither into an empty entry nor into both of two equal ones."""
    seen = set[str]()
    for index, symbol in enumerate(vocabulary):
        if not isinstance(symbol, str) or not symbol:
            raise SourceError(f"vocabulary: entry {index}: expected text, got {symbol!r}")
        if symbol in seen:
            raise SourceError(f"vocabulary: entry {index}: {symbol!r} is there already")
        seen.add(symbol)


def _make_form(module: nn.Module, signature: Signature, options: ExportOptions) -> _Form:
    exact, proof = _prove(module, signature, options)
    precision, cost = options.precision, None
    model = exact.model
    if precision is Precision.HALF:
        # The rounded module is a module like any other: its graph is exact, and storing it loses nothing.
        rounded, _ = _prove(round_weights(module), signature, options)
        model = store_half(rounded.model)
    elif precision is Precision.FLOAT16:
        model = trace(module, exact.signature, options.opset, half=True).model
    elif precision is Precision.INT8:
        model = quantize(exact.model)
    if precision is not Precision.FLOAT32:
        cost = prove_graph(
            model, module, exact.signature, _COARSE_SHARE * max(proof.largest_value, 1e-6), signature.fixed_steps
        )
    return _Form(model, exact.model, exact.signature, proof, cost, exact.notice)


def _prove(module: nn.Module, signature: Signature, options: ExportOptions) -> tuple[Trace, Proof]:
    traced = trace(module, signature, options.opset)
    own_steps = signature.fixed_steps
    return traced, prove_graph(traced.model, module, traced.signature, options.tolerance, own_steps)


def _score(form: _Form, text: ScoredText | None) -> tuple[float, float] | None:
    if text is None:
        return None
    before = bits_per_character(form.exact, form.signature, text)
    after = before if form.model is form.exact else bits_per_character(form.model, form.signature, text)
    return before, after


def _provenance(
    form: _Form, scores: tuple[float, float] | None, options: ExportOptions, given: dict[str, Any]
) -> dict[str, Any]:
    versions = {name: version(name) for name in _PACKAGES}
    # Its distribution has another name beside each extra; the module is the same.
    versions |= {"onnxruntime": onnxruntime.__version__, "python": platform.python_version()}
    facts = {
        **given,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "precision": options.precision.value,
        "opset": options.opset,
        "largest_difference": form.proof.difference,
        "versions": versions,
    }
    if form.cost:
        facts["largest_difference_of_precision"] = form.cost.difference
    if scores:
        facts["bits_per_character"] = round(scores[1], 5)
    return facts


def _write(model: onnx.ModelProto, path: Path) -> int:
    """Writes the file in one move, so that a server that watches the folder never reads half of one."""
    try:
        model_from_proto(model)
    except ModelError as error:
        raise GraphRefused(f"Conveyor does not serve this graph: {error}") from error
    data = model.SerializeToString()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return len(data)

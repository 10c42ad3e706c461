"""Smaller and faster forms: what they store, what they cost, and what they refuse."""

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from conveyor.graph import Scatter, build_serving_graph, read_model
from conveyor_export import ExportOptions, ExportReport, Precision, export_model
from conveyor_export.errors import UnsupportedOption
from conveyor_export.precision import quantize, round_weights, store_half
from conveyor_export.tracing import trace
from tests.export.custom_modules import RunningSum
from tests.export.test_export import SYMBOLS, make_language_model

TEXT = "abcdefghijk" * 20


@dataclass(frozen=True)
class Form:
    """One export of the same two-layer model."""

    report: ExportReport
    model: onnx.ModelProto

    @property
    def ops(self) -> Counter[str]:
        return Counter(node.op_type for node in self.model.graph.node)

    def weights(self) -> dict[str, np.ndarray]:
        return {weight.name: numpy_helper.to_array(weight) for weight in self.model.graph.initializer}


@pytest.fixture(scope="module")
def form(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Precision], Form]:
    """Exports in a precision, once."""

    @cache
    def make(precision: Precision) -> Form:
        path = tmp_path_factory.mktemp(precision.value) / "m.onnx"
        module = make_language_model("lstm", 2, tied=True)
        options = ExportOptions(precision=precision)
        return Form(export_model(module, path, options=options, vocabulary=SYMBOLS, text=TEXT), onnx.load(path))

    return make


def test_half_stores_float16_and_computes_in_float32(form: Callable[[Precision], Form]) -> None:
    """Every large weight is the nearest float16 behind a Cast; the cost and the bits per character are told."""
    half, exact = form(Precision.HALF), form(Precision.FLOAT32).weights()

    casts = {node.input[0]: node.output[0] for node in half.model.graph.node if node.op_type == "Cast"}
    stored = half.weights()
    assert {name for name in exact if exact[name].size >= 64} == set(casts.values())
    for name, cast in casts.items():
        np.testing.assert_array_equal(exact[cast].astype(np.float16), stored[name], strict=True)
    assert half.report.proof.difference < 1e-5 < half.report.cost.difference < 0.02
    before, after = half.report.bits_per_character
    assert 0 < abs(before - after) < 0.01
    assert f"{after:.4f} (float32: {before:.4f})" in str(half.report)


def test_half_stores_nothing_that_it_would_change(form: Callable[[Precision], Form]) -> None:
    """Weights that float16 cannot hold exactly stay as they are."""
    stored = store_half(copy.deepcopy(form(Precision.FLOAT32).model))

    assert stored.graph == form(Precision.FLOAT32).model.graph


def test_half_refuses_weights_beyond_its_range() -> None:
    """A weight of 1e6 is not turned into infinity in silence."""
    module = make_language_model("gru")
    with torch.no_grad():
        module.projection.bias[0] = 1e6

    with pytest.raises(UnsupportedOption, match=r"projection\.bias has values beyond 65504"):
        round_weights(module)


def test_fp16_computes_in_float16_within_float32_ends(form: Callable[[Precision], Form]) -> None:
    """All weights are float16, none is cast back, and inputs, states and outputs stay as they were."""
    half = form(Precision.FLOAT16)

    constants = set(half.weights())
    assert {array.dtype for array in half.weights().values() if array.dtype.kind == "f"} == {np.dtype(np.float16)}
    assert not [node for node in half.model.graph.node if node.op_type == "Cast" and node.input[0] in constants]
    assert form(Precision.FLOAT32).report.signature == half.report.signature
    assert 1e-5 < half.report.cost.difference < 0.05


def test_int8_replaces_every_lstm_and_matmul(form: Callable[[Precision], Form]) -> None:
    """No float LSTM or MatMul is left, and the cost is told."""
    int8 = form(Precision.INT8)

    assert (int8.ops["DynamicQuantizeLSTM"], int8.ops["LSTM"], int8.ops["MatMul"]) == (2, 0, 0)
    assert int8.ops["MatMulInteger"] == 1
    assert 1e-4 < int8.report.cost.difference < 0.2
    assert "cost of int8: largest difference" in str(int8.report)


def test_int8_refuses_a_model_with_nothing_to_replace() -> None:
    """A graph without weights would be written unchanged under a false name."""
    module = RunningSum().eval()

    with pytest.raises(UnsupportedOption, match="no LSTM or MatMul"):
        quantize(trace(module, module.signature, 20).model)


@pytest.mark.parametrize("precision", Precision)
def test_server_batches_every_form(precision: Precision, form: Callable[[Precision], Form]) -> None:
    """The serving graph of each form takes chunks of different lengths in one batch."""
    serving = build_serving_graph(read_model(form(precision).report.path), num_rows=None, scatter=Scatter.ND)

    assert serving.not_ragged_because == ""
    assert serving.can_batch

"""Wrong graphs and wrong modules are refused, each with its own error, and never written."""

import copy
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from conveyor_export import export_model
from conveyor_export.errors import (
    DtypeMismatch,
    ExportError,
    GraphRefused,
    NameMismatch,
    ShapeMismatch,
    SourceError,
    TraceFailed,
    UnsupportedLayer,
    ValueMismatch,
)
from conveyor_export.proof import prove_graph
from conveyor_export.tracing import _clean, _Positional, trace
from tests.export.custom_modules import (
    CellLoop,
    ProjectedLSTM,
    Returning,
    RunningSum,
    Stepper,
    Tensors,
    TokenTagger,
    Wrapped,
)
from tests.export.test_export import make_language_model


def torch_export(module: nn.Module, num_steps: int, axes: tuple[dict[int, object], ...]) -> onnx.ModelProto:
    """What `torch.onnx.export` makes of a module when it is called the plain way."""
    signature = module.signature() if callable(module.signature) else module.signature
    positional = _Positional(copy.deepcopy(module), signature, False).eval()
    rows = [torch.zeros(num_steps, 3, *spec.shape, dtype=getattr(torch, spec.dtype)) for spec in signature.inputs]
    for state in signature.states:
        rows.append(torch.zeros(*state.shape[: state.axis.batch], 3, *state.shape[state.axis.batch :]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            positional,
            tuple(rows),
            dynamo=True,
            verbose=False,
            dynamic_shapes=(axes,),
            input_names=[spec.name for spec in (*signature.inputs, *signature.states)],
            output_names=[o.name for o in signature.outputs] + [s.output for s in signature.states],
        )
    return _clean(program.model_proto, signature)


AUTO = torch.export.Dim.AUTO


def test_specialised_time_axis_is_refused() -> None:
    """A loop over T that PyTorch fixed to the example's length in silence does not pass for any T."""
    module = CellLoop()
    graph = torch_export(module, 5, ({0: AUTO, 1: AUTO}, {0: AUTO}, {0: AUTO}))

    with pytest.raises(ShapeMismatch, match=r"y: expected shape \[T, B, 5\], got \[5, B, 5\].*T is not free"):
        prove_graph(graph, module, module.signature, 1e-4)


def test_unrolled_rnn_is_refused() -> None:
    """PyTorch's own export of nn.RNN, unrolled over the example's T, does not pass."""
    module = make_language_model("rnn_tanh").eval()
    graph = torch_export(module, 5, ({0: AUTO, 1: AUTO}, {1: AUTO}))

    assert not [node for node in graph.graph.node if node.op_type == "RNN"]
    with pytest.raises(ShapeMismatch, match="T is not free"):
        prove_graph(graph, module, module.signature(), 1e-4)

    # Nor does it once its outputs claim that T is free: it is run at other lengths.
    for value in graph.graph.output:
        if value.name == "logits":
            value.type.tensor_type.shape.dim[0].dim_param = "T"
    with pytest.raises((GraphRefused, ShapeMismatch)):
        prove_graph(graph, module, module.signature(), 1e-4)


def test_example_of_one_step_is_refused() -> None:
    """A graph traced with T = 1, which PyTorch takes for a constant, does not pass for any T."""
    module = make_language_model("lstm").eval()
    graph = torch_export(module, 1, ({0: AUTO, 1: AUTO}, {1: AUTO}, {1: AUTO}))

    with pytest.raises(ShapeMismatch, match=r"got \[1, B, 12\]"):
        prove_graph(graph, module, module.signature(), 1e-4)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_projected_lstm_is_refused(tmp_path: Path) -> None:
    """An LSTM with proj_size has no ONNX form; the error names the layer, and no file appears."""
    with pytest.raises(UnsupportedLayer, match="rnn: proj_size=2"):
        export_model(Wrapped(nn.LSTM(3, 5, proj_size=2)), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_projected_lstm_in_disguise_is_refused(tmp_path: Path) -> None:
    """The wrong LSTM node that PyTorch writes for proj_size does not get past the proof."""
    with pytest.raises((GraphRefused, ShapeMismatch, TraceFailed)):
        export_model(Wrapped(ProjectedLSTM(3, 5, proj_size=2)), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_bidirectional_layer_is_refused(tmp_path: Path) -> None:
    """A layer that reads from the end of the stream cannot be served."""
    with pytest.raises(UnsupportedLayer, match="bidirectional"):
        export_model(Wrapped(nn.LSTM(3, 5, bidirectional=True)), tmp_path / "m.onnx")


def test_module_that_forgets_its_state_is_refused(tmp_path: Path) -> None:
    """A module equal to its graph in one pass, but not in chunks, is caught with the run that shows it."""
    with pytest.raises(ValueMismatch, match="step") as caught:
        export_model(Wrapped(nn.LSTM(3, 5), forgetful=True), tmp_path / "m.onnx")
    assert caught.value.difference > caught.value.tolerance
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def lstm() -> tuple[nn.Module, onnx.ModelProto]:
    """A module and its right graph, to be spoilt."""
    module = make_language_model("lstm").eval()
    return module, trace(module, module.signature(), 20).model


def test_wrong_weight_is_a_value_mismatch(lstm: tuple[nn.Module, onnx.ModelProto]) -> None:
    """One weight changed by a hundredth is found, with the size of what it does."""
    module, graph = lstm[0], copy.deepcopy(lstm[1])
    weight = next(weight for weight in graph.graph.initializer if weight.name.endswith("R0"))
    values = numpy_helper.to_array(weight).copy()
    values[0, 0, 0] += 0.01
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))

    with pytest.raises(ValueMismatch, match="differs from PyTorch by") as caught:
        prove_graph(graph, module, module.signature(), 1e-6)
    assert 1e-6 < caught.value.difference < 0.1
    assert prove_graph(graph, module, module.signature(), 0.1).difference == caught.value.difference


def test_nan_is_a_value_mismatch(lstm: tuple[nn.Module, onnx.ModelProto]) -> None:
    """A graph that gives NaN does not slip through a comparison."""
    module, graph = lstm[0], copy.deepcopy(lstm[1])
    weight = next(weight for weight in graph.graph.initializer if weight.name.endswith("projection.bias"))
    weight.CopyFrom(numpy_helper.from_array(np.full(weight.dims, np.nan, np.float32), weight.name))

    with pytest.raises(ValueMismatch, match="inf"):
        prove_graph(graph, module, module.signature(), 1.0)


def test_wrong_name_is_a_name_mismatch(lstm: tuple[nn.Module, onnx.ModelProto]) -> None:
    """Missing and stray tensors are both named."""
    module, graph = lstm[0], copy.deepcopy(lstm[1])
    graph.graph.output[0].name = "scores"

    with pytest.raises(NameMismatch) as caught:
        prove_graph(graph, module, module.signature(), 1e-4)
    assert (caught.value.missing, caught.value.unexpected) == ({"logits"}, {"scores"})


def test_wrong_type_is_a_dtype_mismatch(lstm: tuple[nn.Module, onnx.ModelProto]) -> None:
    """A graph that takes int32 where the signature says int64 is refused."""
    module, graph = lstm[0], copy.deepcopy(lstm[1])
    graph.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT32

    with pytest.raises(DtypeMismatch, match="tokens: expected int64, got int32"):
        prove_graph(graph, module, module.signature(), 1e-4)


def test_broken_graph_is_refused(lstm: tuple[nn.Module, onnx.ModelProto]) -> None:
    """What ONNX Runtime cannot load is said in one line."""
    module, graph = lstm[0], copy.deepcopy(lstm[1])
    graph.graph.node[-1].op_type = "Nonsense"

    with pytest.raises(GraphRefused) as caught:
        prove_graph(graph, module, module.signature(), 1e-4)
    assert "\n" not in str(caught.value)


def test_step_graph_with_context_is_proven(tmp_path: Path) -> None:
    """A module without a time axis, with a context, is exported for one step a run, and proven step by step."""
    report = export_model(Stepper(), tmp_path / "m.onnx")

    assert report.signature.fixed_steps == 1
    assert list(report.proof.by_plan) == ["step by step"]
    assert report.proof.num_runs > 30


class Misnamed(CellLoop):
    """Returns a state under another name than its signature's."""

    def forward(self, inputs, states):
        outputs, new_states = super().forward(inputs, states)
        return outputs, {"h": new_states["h"], "cell": new_states["c"]}


class Misshapen(CellLoop):
    """Returns an output with an axis that its signature does not have."""

    def forward(self, inputs, states):
        outputs, new_states = super().forward(inputs, states)
        return {"y": outputs["y"][None]}, new_states


@pytest.mark.parametrize(
    ("module", "error", "text"),
    [
        (Misnamed(), NameMismatch, "lacks c and has cell"),
        (Misshapen(), ShapeMismatch, "y: expected shape"),
        (nn.Linear(2, 2), SourceError, "Linear: signature"),
        (3, SourceError, "got int"),
    ],
)
def test_module_that_breaks_its_own_signature(
    module: nn.Module, error: type[ExportError], text: str, tmp_path: Path
) -> None:
    """The protocol is checked before anything is traced, and the message says what is wrong."""
    with pytest.raises(error, match=text):
        export_model(module, tmp_path / "m.onnx")


def complain(outputs: Tensors, states: Tensors) -> Any:
    """Raises what takes two lines to say."""
    raise RuntimeError("not today,\nnor tomorrow")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (complain, "RuntimeError: not today, nor tomorrow"),
        (lambda outputs, states: outputs["sums"], r"expected a pair \(outputs, new states\), got Tensor"),
        (lambda outputs, states: (outputs, states, 1), r"expected a pair \(outputs, new states\), got tuple of 3"),
        (lambda outputs, states: ([outputs["sums"]], states), "outputs: expected a dict of tensors by name, got list"),
        (lambda outputs, states: (outputs, None), "new states: expected a dict of tensors by name, got NoneType"),
        (lambda outputs, states: (outputs, {0: states["sum"]}), "new states: expected names, got 0"),
        (lambda outputs, states: ({"sums": outputs["sums"].numpy()}, states), "outputs: sums: expected a tensor, got"),
    ],
)
def test_forward_that_breaks_the_protocol(make: Callable[[Tensors, Tensors], Any], text: str, tmp_path: Path) -> None:
    """Whatever the user's forward raises or returns, one line names the module and what is wrong."""
    with pytest.raises(SourceError, match=f"^Returning: forward: {text}") as caught:
        export_model(Returning(make), tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)


class Unsigned(RunningSum):
    """Fails to describe itself."""

    def signature(self) -> Any:
        raise KeyError("width")


def misnumbered() -> nn.Module:
    """A module whose signature is one that no file can hold."""
    module = RunningSum()
    module.signature = replace(module.signature, max_token=np.int64(3))
    return module


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (Unsigned(), "^Unsigned: signature: KeyError: 'width'"),
        (misnumbered(), "^RunningSum: signature: .*int64 is not JSON"),
        (TokenTagger(None), "^TokenTagger: signature: max_token: a model of tokens has to say which is the last"),
        (TokenTagger(-1), "^TokenTagger: signature: -1 is not a number from 0"),
        (TokenTagger(10), "^TokenTagger: forward: IndexError: .*does the signature's max_token go beyond"),
    ],
)
def test_signature_that_cannot_be_served(module: nn.Module, text: str, tmp_path: Path) -> None:
    """A signature that raises, that the server would not read, or that allows a token without a row is refused."""
    with pytest.raises(SourceError, match=text):
        export_model(module, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_module_that_cannot_be_copied(tmp_path: Path) -> None:
    """The export works on a copy; a module that holds what has none is told so."""
    module = RunningSum()
    module.lock = threading.Lock()

    with pytest.raises(SourceError, match=r"RunningSum: cannot be copied: TypeError: .*lock"):
        export_model(module, tmp_path / "m.onnx")


def test_untraceable_module_is_told(tmp_path: Path) -> None:
    """A module whose flow hangs on values is refused with PyTorch's reason, in one line."""

    class Moody(CellLoop):
        def forward(self, inputs, states):
            outputs, new_states = super().forward(inputs, states)
            return (outputs if new_states["h"].sum() > 0 else {"y": outputs["y"] + 1}), new_states

    with pytest.raises(TraceFailed) as caught:
        export_model(Moody(), tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_untraceable_module_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """PyTorch's own account of a number that is read off a tensor, the whole graph, stays away from the terminal."""

    class Reading(CellLoop):
        def forward(self, inputs, states):
            outputs, new_states = super().forward(inputs, states)
            return {"y": outputs["y"] * float(inputs["x"].sum())}, new_states

    with pytest.raises(TraceFailed):
        export_model(Reading(), tmp_path / "m.onnx")
    assert capfd.readouterr() == ("", "")

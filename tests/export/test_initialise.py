"""First states and contexts that a graph computes when a session opens: a part of the one graph, and of its proof."""

import copy
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

from conveyor.graph import read_model
from conveyor.signature import Axis, ContextSpec, NoiseSpec, Signature
from conveyor_export import ExportOptions, export_model
from conveyor_export.errors import (
    DtypeMismatch,
    ExportError,
    GraphRefused,
    NameMismatch,
    ShapeMismatch,
    SourceError,
    TraceFailed,
    UnsupportedOption,
    ValueMismatch,
)
from conveyor_export.precision import Precision, quantize
from conveyor_export.proof import prove_graph, prove_module
from conveyor_export.runtime import InitialiserRunner
from conveyor_export.scoring import encode_text
from conveyor_export.shapes import random_inputs
from conveyor_export.tracing import trace
from tests.export.custom_modules import Opened, RunningSum, Tensors
from tests.export.test_export import SYMBOLS, make_language_model


@pytest.fixture(scope="module")
def module() -> Opened:
    torch.manual_seed(0)
    return Opened().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def graph(module: Opened) -> onnx.ModelProto:
    return trace(module, module.signature(), 20).model


def prove(graph: onnx.ModelProto, module: nn.Module, tolerance: float = 1e-5) -> int:
    signature = trace_signature(module)
    return prove_graph(graph, module, signature, tolerance).num_runs


def trace_signature(module: nn.Module) -> Signature:
    """What holds for a graph of one step."""
    signature = module.signature()
    return Signature(
        signature.inputs, signature.states, signature.outputs, signature.contexts, signature.noises, fixed_steps=1
    )


def test_one_graph_steps_and_initialises(module: Opened, graph: onnx.ModelProto) -> None:
    """The initialisers are outputs of the step's graph; what the step does not read is an input all the same."""
    assert [value.name for value in graph.graph.input] == ["x", "seen", "picture", "h", "count"]
    outputs = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.graph.output}
    assert outputs == {
        "y": [1, "B", 5],
        "h_out": [1, "B", 5],
        "count_out": ["B"],
        "seen_first": ["B", 6],
        "h_first": [1, "B", 5],
    }
    assert prove(graph, module) > 0


def test_initialiser_runs_alone(module: Opened, graph: onnx.ModelProto) -> None:
    """With the given context and nothing else, for any number of sessions."""
    picture = torch.randn(7, 4)
    got = InitialiserRunner(graph, module.signature()).run({"picture": picture.numpy()})

    assert got.keys() == {"h", "seen"}
    for name, expected in module.initialise({"picture": picture}).items():
        np.testing.assert_allclose(got[name], expected.numpy(), atol=1e-6)


@pytest.mark.parametrize(("weight", "where"), [("first.bias", "first h"), ("look.bias", "first seen")])
def test_wrong_initialiser_is_a_value_mismatch(weight: str, where: str, module: Opened, graph: onnx.ModelProto) -> None:
    """A first state or a computed context that differs a little is found, though the step is right."""
    spoilt = copy.deepcopy(graph)
    found = next(each for each in spoilt.graph.initializer if each.name.endswith(weight))
    found.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(found) + np.float32(0.01), found.name))

    with pytest.raises(ValueMismatch, match=f"{where}, . sessions at their opening: differs from PyTorch"):
        prove(spoilt, module)


def test_initialiser_that_reads_a_stream_is_refused(module: Opened, graph: onnx.ModelProto) -> None:
    """What a session opens with cannot hang on what it will be told."""
    spoilt = copy.deepcopy(graph)
    node = next(node for node in spoilt.graph.node if "h_first" in node.output)
    node.output[0] = "h_before"
    spoilt.graph.node.append(onnx.helper.make_node("Add", ["h_before", "h"], ["h_first"]))

    with pytest.raises(GraphRefused, match="initialisers: they depend on h,"):
        prove(spoilt, module)


def test_missing_initialiser_is_a_name_mismatch(module: Opened, graph: onnx.ModelProto) -> None:
    """A graph without one of the initialisers is not the signature's."""
    spoilt = copy.deepcopy(graph)
    spoilt.graph.output.pop()

    with pytest.raises(NameMismatch, match="lacks h_first"):
        prove(spoilt, module)


def test_computed_context_is_an_input(module: Opened) -> None:
    """A module that computes its context anew at each step, whatever it is fed, is not taken for one that reads it."""

    class Recomputing(Opened):
        def forward(self, inputs: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
            return super().forward(inputs | self.initialise({"picture": inputs["picture"]}), states)

    again = Recomputing().eval().requires_grad_(False)
    again.load_state_dict(module.state_dict())
    graph = trace(again, again.signature(), 20).model
    with pytest.raises(ValueMismatch, match="random states"):
        prove(graph, module)


def test_what_is_the_same_for_every_session_may_be_initialised_too(module: Opened) -> None:
    """A learned first state, or zeros, takes of the contexts nothing but how many sessions there are."""

    class Learned(Opened):
        def initialise(self, contexts: Tensors) -> Tensors:
            num_sessions = contexts["picture"].shape[0]
            return {"h": self.first.bias.expand(1, num_sessions, -1), "seen": torch.zeros(num_sessions, 6)}

    learned = Learned().eval().requires_grad_(False)
    graph = trace(learned, learned.signature(), 20).model
    got = InitialiserRunner(graph, learned.signature()).run({"picture": torch.randn(7, 4).numpy()})

    np.testing.assert_array_equal(got["h"], learned.first.bias.expand(1, 7, 5).numpy())
    np.testing.assert_array_equal(got["seen"], np.zeros((7, 6)))
    assert prove(graph, learned) > 0


def test_a_context_may_be_for_the_steps_alone(tmp_path: Path) -> None:
    """A given context that no first state comes from is no input of the initialiser, and of the step all the same."""

    class Styled(Opened):
        def signature(self) -> Signature:
            signature = super().signature()
            style = ContextSpec("style", "float32", (5,), Axis(batch=0))
            return replace(signature, contexts=(*signature.contexts, style))

        def forward(self, inputs: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
            outputs, states = super().forward(inputs, states)
            return {"y": outputs["y"] + inputs["style"]}, states

    report = export_model(Styled(), tmp_path / "m.onnx")

    assert [context.name for context in report.signature.given_contexts] == ["picture", "style"]
    assert report.proof.difference < 1e-5


def complain(found: Tensors) -> Any:
    raise RuntimeError("not today,\nnor tomorrow")


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (complain, SourceError, "^Answering: initialise: RuntimeError: not today, nor tomorrow"),
        (lambda found: found["h"], SourceError, "^Answering: initialise: expected a dict of tensors by name, got Te"),
        (lambda found: found | {"seen": 3}, SourceError, "^Answering: initialise: seen: expected a tensor, got int"),
        (lambda found: {"h": found["h"]}, NameMismatch, "what the module initialises lacks seen"),
        (lambda found: found | {"count": found["h"]}, NameMismatch, "has count, which the signature does not name"),
        (lambda found: found | {"h": found["h"][0]}, ShapeMismatch, r"h: expected shape \[1, 2, 5\], got \[2, 5\]"),
        (
            lambda found: found | {"seen": torch.zeros(2, 6)},
            ShapeMismatch,
            r"seen: expected shape \[1, 6\], got \[2, 6",
        ),
        (lambda found: found | {"h": found["h"].double()}, DtypeMismatch, "h: expected float32, got float64"),
    ],
)
def test_initialise_that_breaks_the_protocol(
    make: Callable[[Tensors], Any], error: type[ExportError], text: str
) -> None:
    """Whatever `initialise` raises or returns, one line says what is wrong."""

    class Answering(Opened):
        def initialise(self, contexts: Tensors) -> Any:
            return make(super().initialise(contexts))

    module = Answering()
    with pytest.raises(error, match=text) as caught:
        prove_module(module, module.signature())
    assert "\n" not in str(caught.value)


def test_sessions_that_are_counted_in_python_are_told_of(module: Opened) -> None:
    """What keeps the graph from any number of sessions is the reason given, not that its loop takes one step a run."""

    class Counting(Opened):
        def initialise(self, contexts: Tensors) -> Tensors:
            return super().initialise(contexts) | {"seen": torch.zeros(len(contexts["picture"]), 6)}

    with pytest.raises(TraceFailed, match="B as dynamic but your code specialized it"):
        trace(Counting(), module.signature(), 20)


def test_module_without_the_method() -> None:
    """A signature with initialisers needs a method that computes them."""
    module = RunningSum()
    with pytest.raises(SourceError, match=r"^RunningSum: initialise: the signature has initialisers"):
        prove_module(module, Opened().signature())


def test_smaller_forms(module: Opened) -> None:
    """float16 and int8 take the initialiser along, and the proof sees what it costs."""
    half = trace(module, trace_signature(module), 20, half=True).model
    small = quantize(trace(module, trace_signature(module), 20).model)

    for graph in (half, small):
        with pytest.raises(ValueMismatch):
            prove(graph, module, 1e-6)
        assert prove(graph, module, 0.1) > 0


@pytest.mark.parametrize("precision", Precision)
def test_export(precision: Precision, module: Opened, tmp_path: Path) -> None:
    """Each form is written as one file that the server reads; the report says what is computed from what."""
    report = export_model(module, tmp_path / "m.onnx", options=ExportOptions(precision=precision))

    assert read_model(tmp_path / "m.onnx").signature == report.signature
    assert list(report.signature.initialisers) == ["seen_first", "h_first"]
    contexts = "contexts: seen [6] float32 (computed), picture [4] float32; 40 bytes per session"
    assert contexts in str(report).splitlines()


def test_noise_is_of_its_distribution() -> None:
    """What the proof feeds as uniform noise is within 0 to 1, and normal noise is beyond on both sides."""
    steps = Axis(batch=1, time=0)
    noises = tuple(NoiseSpec(name, "float32", (2,), steps, distribution=name) for name in ("uniform", "normal"))
    drawn = random_inputs(Signature((), (), (), noises=noises), 3, 200, torch.Generator().manual_seed(0))

    assert drawn["uniform"].shape == (200, 3, 2)
    assert 0 <= drawn["uniform"].min() < 0.1 < 0.9 < drawn["uniform"].max() < 1
    assert drawn["normal"].min() < -2
    assert drawn["normal"].max() > 2


def test_text_alone_cannot_be_scored() -> None:
    """A model that needs a context as well has no bits per character."""
    signature = make_language_model().signature()
    contexts = Opened().signature().given_contexts
    described = Signature(signature.inputs, (), signature.outputs, contexts, max_token=signature.max_token)

    with pytest.raises(UnsupportedOption, match="text: a model of contexts or noise"):
        encode_text(described, SYMBOLS, "abc")

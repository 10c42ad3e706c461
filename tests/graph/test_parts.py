"""A graph is cut into what runs once and what runs at each step."""

import onnx
import pytest

from conveyor.graph.errors import ModelError
from conveyor.graph.model_file import model_from_proto
from conveyor.graph.parts import initialiser_model, step_model
from tests.models import make_context_model, make_model


def names(values: object) -> set[str]:
    return {value.name for value in values}  # type: ignore[attr-defined]


def test_both_parts_have_what_they_need_and_no_more() -> None:
    """The first part sees the given contexts alone; the second has neither the first's weights nor its outputs."""
    model = model_from_proto(make_context_model()[0])
    first = initialiser_model(model.proto, model.signature)
    step = step_model(model.proto, model.signature)

    assert first is not None
    for part in (first, step):
        onnx.checker.check_model(part, full_check=True)
    assert names(first.graph.input) == {"picture"}
    assert names(first.graph.output) == {"h_first", "leaning_first"}
    assert names(first.graph.initializer) == {"first.weight", "lean.weight", "layer_axis"}
    assert names(step.graph.input) == {"tokens", "noise", "leaning", "h", "c"}
    assert names(step.graph.output) == {"logits", "h_out", "c_out"}
    assert not names(step.graph.initializer) & {"first.weight", "lean.weight"}


def test_a_model_without_initialisers_has_no_first_part() -> None:
    """And its step is the whole graph."""
    model = model_from_proto(make_model()[0])

    assert initialiser_model(model.proto, model.signature) is None
    assert step_model(model.proto, model.signature).graph.node == model.proto.graph.node


def test_operands_that_are_left_out_are_nobodys_results() -> None:
    """A node without an optional input does not need every node that leaves out an optional output."""
    proto, _ = make_context_model()
    graph = proto.graph
    lstm = next(node for node in graph.node if node.op_type == "LSTM")
    place, first = next((i, node) for i, node in enumerate(graph.node) if "first" in node.output)
    first.output[0] = "unbounded"
    graph.initializer.append(onnx.helper.make_tensor("most", onnx.TensorProto.FLOAT, [], [1]))
    graph.node.insert(place + 1, onnx.helper.make_node("Clip", ["unbounded", "", "most"], ["first"]))
    graph.node.insert(place, onnx.helper.make_node("LSTM", lstm.input, ["", "last"], hidden_size=16))
    model = model_from_proto(proto)
    part = initialiser_model(model.proto, model.signature)

    assert part is not None
    assert names(part.graph.input) == {"picture"}


def test_weights_may_be_listed_among_the_inputs() -> None:
    """Old exporters declare every weight as an input too, which makes it nothing that a client gives."""
    proto, _ = make_context_model()
    graph = proto.graph
    graph.input.extend(onnx.helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in graph.initializer)
    model = model_from_proto(proto)
    part = initialiser_model(model.proto, model.signature)

    assert part is not None
    assert "picture" in names(part.graph.input)


def test_an_initialiser_that_looks_at_a_step_is_refused() -> None:
    """What is computed at opening cannot depend on what comes later."""
    proto, _ = make_context_model()
    node = next(node for node in proto.graph.node if "first" in node.output)
    node.input[0] = "h_step"
    proto.graph.node.insert(0, onnx.helper.make_node("Slice", ["leaning", "zero", "three", "one"], ["h_step"]))
    for name, value in (("zero", 0), ("three", 3), ("one", 1)):
        proto.graph.initializer.append(onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [1], [value]))
    model = model_from_proto(proto)

    with pytest.raises(ModelError, match="they depend on leaning, which is not a context that the client gives"):
        initialiser_model(model.proto, model.signature)

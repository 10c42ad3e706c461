"""What is proposed for graphs that say nothing about themselves, and what is asked."""

import json
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from conveyor.graph.errors import ModelError
from conveyor.graph.model_file import model_from_proto
from conveyor.graph.proposal import Proposal, propose
from conveyor.graph.serving import Scatter, build_serving_graph
from conveyor.signature import Axis, Signature
from tests import models
from tests.foreign import SHAPES, make_old_gru, make_sums

Dims = Sequence[int | str | None]


def bare(made: tuple[ModelProto, object]) -> ModelProto:
    """The graph alone."""
    del made[0].metadata_props[:]
    return made[0]


def graph_of(
    inputs: dict[str, Dims],
    outputs: dict[str, Dims],
    nodes: list[onnx.NodeProto] | None = None,
    **constants: np.ndarray,
) -> ModelProto:
    """A graph of float32 tensors; without nodes, every output depends on every input."""
    everything = [helper.make_node("Everything", list(inputs), list(outputs))]
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in tensors.items()]
        for tensors in (inputs, outputs)
    ]
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes or everything, "g", *values, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def states_of(proposal: Proposal) -> list[str]:
    return [f"{state['name']}->{state['output']}" for state in proposal.draft["states"]]


def axes_of(proposal: Proposal, role: str) -> list[tuple[int | None, int | None]]:
    return [(tensor["axis"]["batch"], tensor["axis"]["time"]) for tensor in proposal.draft[role]]


@pytest.mark.parametrize(
    "make",
    [
        models.make_model,
        lambda: models.make_model("gru", num_layers=3),
        models.make_feature_model,
        models.make_frame_model,
        models.make_lone_model,
    ],
)
def test_our_own_models(make: Callable[[], tuple[ModelProto, object]]) -> None:
    """What an export says of a model is what its graph alone tells, but for where its states begin."""
    proto = make()[0]
    signature = Signature.from_json(proto.metadata_props[0].value)
    del proto.metadata_props[:]

    proposed = json.loads(propose(proto).signature().to_json())

    expected = json.loads(signature.to_json())
    for state in expected["states"]:
        state["initial"] = None
    assert proposed == expected


@pytest.mark.parametrize(("batch", "time", "dtype"), sorted({shape[:3] for shape in SHAPES}, key=str))
def test_shapes(batch: int | None, time: int | None, dtype: str) -> None:
    """Batch and time axes are found wherever they are, and where there are none."""
    proto, signature = make_sums(batch, time, dtype)

    assert propose(proto).signature() == signature


def test_structure_comes_before_names() -> None:
    """A recurrent node's states are those that it starts and ends with, whatever they are called."""
    proto = bare(models.make_model())
    renamed = {"h": "a", "c": "b", "h_out": "b_out", "c_out": "a_out"}  # by their names, they would be swapped
    for value in (*proto.graph.input, *proto.graph.output):
        value.name = renamed.get(value.name, value.name)
    for node in proto.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]

    assert states_of(propose(proto)) == ["a->b_out", "b->a_out"]


def test_the_states_of_a_scan() -> None:
    """What a Scan carries from step to step is told from what it scans, by their places in the operator."""
    scan = helper.make_node("Scan", ["a", "b", "xs"], ["d", "c", "ys"], num_scan_inputs=1)
    tensors: dict[str, Dims] = {"xs": ["T", 8], "b": [8], "a": [8]}

    proposal = propose(graph_of(tensors, {"c": [8], "d": [8], "ys": ["T", 8]}, [scan]))

    assert states_of(proposal) == ["b->c", "a->d"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("state", "stateN"),
        ("h", "hn"),
        ("h0", "hn"),
        ("h0", "h1"),
        ("h_in", "h_out"),
        ("cache", "new_cache"),
        ("prev_state", "next_state"),
        ("past_mem", "present_mem"),
        ("lstm.hx.0", "lstm.hx.0.out"),
    ],
)
def test_names(old: str, new: str) -> None:
    """The usual names of a state and of what replaces it are known."""
    proposal = propose(graph_of({"x": ["B", 3], old: ["B", 8]}, {"y": ["B", 2], new: ["B", 8]}))

    assert states_of(proposal) == [f"{old}->{new}"]
    assert proposal.questions == []


def test_numbered_states() -> None:
    """A number that tells states apart belongs to the name; pairs do not follow any order."""
    states = {"h_0": ["B", 8], "h_1": ["B", 8], "h_2": ["B", 8]}
    news = {f"{name}_out": dims for name, dims in reversed(states.items())}

    proposal = propose(graph_of({"x": ["B", 3], **states}, {"y": ["B", 2], **news}))

    assert states_of(proposal) == ["h_0->h_0_out", "h_1->h_1_out", "h_2->h_2_out"]


def test_a_state_with_a_value() -> None:
    """A first state that the graph has a value for begins with it; weights that are inputs too stay weights."""
    proto = make_old_gru(11)
    first = np.arange(5, dtype=np.float32).reshape(1, 1, 5)
    for value in (*proto.graph.input[:2], *proto.graph.output):
        value.type.tensor_type.shape.dim[1].dim_value = 1
    proto.graph.initializer.append(numpy_helper.from_array(first, "h"))

    model = model_from_proto(proto)

    assert [state.initial for state in model.signature.states] == [tuple(range(5))]
    assert [spec.name for spec in model.signature.inputs] == ["x"]
    serving = build_serving_graph(model, num_rows=None, scatter=Scatter.ND)
    assert "h" not in {tensor.name for tensor in serving.proto.graph.initializer}


def test_two_pairings() -> None:
    """Where two fit, neither is taken, and both are named."""
    proto = graph_of({"input_1": [1, 257], "input_2": [1, 128]}, {"out_a": [1, 257], "out_b": [1, 128]})

    with pytest.raises(ModelError, match=r"input_1 -> out_a and input_2 -> out_b fit, .*--state IN=OUT"):
        propose(proto)
    with pytest.raises(ModelError, match=r"h -> hn and h -> h_out fit|h -> h_out and h -> hn fit"):
        propose(graph_of({"x": ["B", 3], "h": ["B", 8]}, {"h_out": ["B", 8], "hn": ["B", 8]}))


def test_a_pairing_that_is_given() -> None:
    """What a person names is taken, as far as it can be true."""
    proto = graph_of({"input_1": [1, 257], "input_2": [1, 128]}, {"out_a": [1, 257], "out_b": [1, 128]})

    proposal = propose(proto, {"input_2": "out_b"})

    assert states_of(proposal) == ["input_2->out_b"]
    assert [tensor["name"] for tensor in proposal.draft["inputs"]] == ["input_1"]
    assert proposal.questions == []
    with pytest.raises(ModelError, match="input_2 -> out_a: they differ in dtype or shape"):
        propose(proto, {"input_2": "out_a"})
    with pytest.raises(ModelError, match="no output is named out_c; there is out_a, out_b"):
        propose(proto, {"input_2": "out_c"})


def test_what_streams_through() -> None:
    """`in` and `out` alone make no state of what a model is fed and gives."""
    inputs: dict[str, Dims] = {"frame_in": ["B", 8], "hidden_in": ["B", 5]}
    outputs: dict[str, Dims] = {"frame_out": ["B", 8], "hidden_out": ["B", 5]}

    assert states_of(propose(graph_of(inputs, outputs))) == ["hidden_in->hidden_out"]
    assert states_of(propose(graph_of({"x": ["B", 8]}, {"y": ["B", 8]}))) == []


def test_guesses_are_asked() -> None:
    """What alone is alike may be a state, and a person has to say so."""
    proposal = propose(graph_of({"x": ["B", 3], "m": ["B", 8]}, {"y": ["B", 2], "z": ["B", 8]}))

    assert states_of(proposal) == ["m->z"]
    assert proposal.questions == ["state m -> z: whether it is one; they alone are alike speak for it"]


def test_a_state_that_is_not_computed_from_itself() -> None:
    """An output that an input has no part in does not replace it."""
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["state_out"]),
        helper.make_node("MatMul", ["state", "weight_2"], ["y"]),
    ]
    weights = {"weight": np.zeros((3, 8), np.float32), "weight_2": np.zeros((8, 2), np.float32)}

    proto = graph_of({"x": ["B", 3], "state": ["B", 8]}, {"y": ["B", 2], "state_out": ["B", 8]}, nodes, **weights)

    assert states_of(propose(proto)) == []


def test_outputs_without_time() -> None:
    """If only the inputs have steps, a person has to say how many a run takes."""
    proposal = propose(bare(models.make_step_model()))

    assert states_of(proposal) == ["h->h_out", "count->count_out"]
    assert proposal.questions == [
        "fixed_steps: 1 if a run takes one step, since logits has no time axis, though the inputs have one"
    ]


@pytest.mark.parametrize(
    ("x", "state", "y", "expected"),
    [
        ([None, 3], [None, 8], [None, 2], (0, None)),  # one length is open: the batch, as in the state
        ([0, 3], [0, 8], [0, 2], (0, None)),  # 0 is written for any length
        (["a", "b", 3], [1, "a", 8], ["a", "b", 2], (0, 1)),  # what the state has too is the batch
        (["a", "b", 3], [1, "b", 8], ["a", "b", 2], (1, 0)),
        (["frames", 3], [1, 1, 8], ["frames", 2], (None, 0)),  # what only the steps have is time
        ([1, 3], [1, 8], [1, 2], (None, None)),
    ],
)
def test_axes(x: Dims, state: Dims, y: Dims, expected: tuple[int | None, int | None]) -> None:
    """Axes are told apart by what tensors share, not by how their symbols are called."""
    proposal = propose(graph_of({"x": x, "h": state}, {"y": y, "hn": state}))

    assert axes_of(proposal, "inputs") == [expected]
    assert axes_of(proposal, "outputs") == [expected]
    assert proposal.questions == []


def test_nothing_left_to_stream() -> None:
    """If names make states of all inputs, one of them is none, and nobody knows which."""
    proto = graph_of({"frame": ["B", 8], "state": ["B", 5]}, {"next_frame": ["B", 8], "next_state": ["B", 5]})

    with pytest.raises(ModelError, match="frame -> next_frame and state -> next_state fit"):
        propose(proto)
    assert states_of(propose(proto, {"state": "next_state"})) == ["state->next_state"]


def test_a_type_that_no_client_could_send() -> None:
    """A tensor of another type is told by name."""
    proto = graph_of({"x": ["B", 8]}, {"y": ["B", 8]})
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING

    with pytest.raises(ModelError, match=r"none can be proposed: x: dtype '\w+' is not one"):
        propose(proto).signature()


def test_a_length_that_is_open() -> None:
    """A length that the graph does not tell is null in the draft, and asked for."""
    proposal = propose(graph_of({"x": ["B", "samples"], "h": ["B", 8]}, {"y": ["B", 2], "hn": ["B", 8]}))

    assert proposal.questions == ["input x: the length of axis 1"]
    assert proposal.draft["inputs"][0]["shape"] == [None]
    with pytest.raises(ValueError, match=r"x: shape has null where a length"):
        Signature.from_json(proposal.json)


def test_undeclared_axes() -> None:
    """A tensor of which not even the number of axes is declared has to be described."""
    proto = graph_of({"x": ["B", 3], "h": ["B", 8]}, {"y": ["B", 2], "hn": ["B", 8]})
    proto.graph.output[0].type.tensor_type.ClearField("shape")

    assert propose(proto).questions == ["output y: its axes, which the graph does not declare"]


def test_a_scalar_beside_the_stream() -> None:
    """It is a constant, and what the graph compares it with is offered as its value."""
    nodes = [
        helper.make_node("Equal", ["rate", "usual"], ["is_usual"]),
        helper.make_node("Add", ["x", "h"], ["hn"]),
        helper.make_node("Where", ["is_usual", "hn", "x"], ["y"]),
    ]
    tensors: dict[str, Dims] = {"x": ["B", 8], "rate": [], "h": ["B", 8]}

    usual = np.array(16000, np.float32)
    proposal = propose(graph_of(tensors, {"y": ["B", 8], "hn": ["B", 8]}, nodes, usual=usual))

    (constant,) = proposal.draft["contexts"]
    assert (constant["name"], constant["shape"], constant["default"]) == ("rate", [], [16000.0])
    assert constant["axis"] == {"batch": None, "time": None}
    assert proposal.questions == ["constant rate: its value; the graph compares it with 16000.0"]


def test_no_state() -> None:
    """A model without states is served step by step, its batch axis first."""
    proposal = propose(graph_of({"x": ["N", 8]}, {"y": ["N", 3]}))

    assert proposal.signature().states == ()
    assert proposal.signature().inputs[0].axis == Axis(batch=0)
    assert "no states: each step stands alone" in proposal.decisions

"""Where the CUDA provider would run each node, by the rules that onnxruntime has."""

from collections.abc import Callable

import pytest
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper

from conveyor.graph import heads, rows
from conveyor.graph.arena import Scatter
from conveyor.graph.model_file import model_from_proto
from conveyor.graph.placement import CPU, CUDA, cuda_placement
from conveyor.graph.serving import build_serving_graph
from tests.models import make_model


def recurrent(proto: ModelProto) -> NodeProto:
    return next(node for node in proto.graph.node if node.op_type in ("LSTM", "GRU", "RNN"))


def reason(proto: ModelProto) -> str:
    """Why the recurrent node is on the CPU; the empty string if it is not."""
    (placement,) = (p for p in cuda_placement(proto) if p.op_type in ("LSTM", "GRU", "RNN"))
    assert placement.provider == (CPU if placement.reason else CUDA)
    return placement.reason


def attribute(name: str, value: object) -> Callable[[ModelProto], None]:
    def change(proto: ModelProto) -> None:
        node = recurrent(proto)
        old = [a for a in node.attribute if a.name == name]
        for a in old:
            node.attribute.remove(a)
        node.attribute.append(helper.make_attribute(name, value))

    return change


def add_peepholes(proto: ModelProto) -> None:
    recurrent(proto).input.append("P")


def drop_reset(proto: ModelProto) -> None:
    node = recurrent(proto)
    kept: list[AttributeProto] = [a for a in node.attribute if a.name != "linear_before_reset"]
    del node.attribute[:]
    node.attribute.extend(kept)


def make_bfloat16(proto: ModelProto) -> None:
    proto.graph.value_info.append(helper.make_tensor_value_info("embedded", TensorProto.BFLOAT16, None))
    for tensor in proto.graph.initializer:
        if tensor.name == "embedding":
            tensor.data_type = TensorProto.BFLOAT16


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
@pytest.mark.parametrize("scatter", Scatter)
def test_serving_graphs(cell: str, num_layers: int, scatter: Scatter) -> None:
    """Every node of a plain model's serving graph runs on CUDA."""
    model = model_from_proto(make_model(cell, num_layers)[0])
    serving = build_serving_graph(model, num_rows=8, scatter=scatter)
    assert {p.provider for p in cuda_placement(serving.proto)} == {CUDA}


@pytest.mark.parametrize(
    ("cell", "change", "words"),
    [
        ("lstm", add_peepholes, "Peephole weights"),
        ("lstm", attribute("clip", 0.0), "The attribute clip"),
        ("lstm", attribute("input_forget", 1), "Coupled gates"),
        ("lstm", attribute("activations", ["Sigmoid", "Affine", "Tanh"]), "Its activations"),
        ("lstm", attribute("activation_alpha", [1.0]), "The attribute activation_alpha"),
        ("gru", attribute("activation_beta", [1.0]), "The attribute activation_beta"),
        ("gru", drop_reset, "A GRU needs linear_before_reset=1"),
        ("gru", attribute("layout", 1), "No provider runs layout=1"),
        ("rnn_tanh", attribute("activations", ["Relu"]), "Its activations"),
        ("lstm", make_bfloat16, "cuDNN's recurrent kernels take"),
    ],
)
def test_recurrent_nodes_that_fall_back(cell: str, change: Callable[[ModelProto], None], words: str) -> None:
    """Each rule that keeps a recurrent node on the CPU is told in one sentence."""
    proto, _ = make_model(cell)
    assert reason(proto) == ""
    change(proto)
    assert reason(proto).startswith(words)
    assert reason(proto).endswith(".")


@pytest.mark.parametrize("activations", [["Sigmoid", "Tanh", "Tanh"], ["sigmoid", "tanh", "tanh"]])
def test_usual_activations_by_name(activations: list[str]) -> None:
    """Naming the activations that an LSTM has anyway changes nothing."""
    proto, _ = make_model()
    attribute("activations", activations)(proto)
    assert reason(proto) == ""


def test_relu_rnn() -> None:
    """An RNN with relu stays on the CPU, though cuDNN could run it."""
    assert reason(make_model("rnn_relu")[0]).startswith("Its activations")


def test_unknown_operators() -> None:
    """Operators without a CUDA kernel are named as such, whatever their domain."""
    proto, _ = make_model()
    proto.graph.node.append(helper.make_node("Mish", ["logits"], ["m"]))
    proto.graph.node.append(helper.make_node("DynamicQuantizeLSTM", ["logits"], ["q"], domain="com.microsoft"))
    mish, quantised = cuda_placement(proto)[-2:]
    assert (mish.provider, mish.reason) == (CPU, "The CUDA provider has no kernel for this operator.")
    assert quantised.provider == CPU


def test_own_graphs() -> None:
    """The heads and the row graphs need nothing from the CPU provider."""
    arena = build_serving_graph(model_from_proto(make_model()[0]), num_rows=8, scatter=Scatter.ELEMENTS).arenas[0]
    own = [heads.top_head(), heads.score_head(), heads.sample_head("float16")]
    own += [rows.read_rows_model(arena), rows.write_rows_model(arena, Scatter.ELEMENTS)]
    for proto in own:
        assert {p.provider for p in cuda_placement(proto)} == {CUDA}

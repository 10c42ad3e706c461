"""What `read_model` reads from a file, and what it refuses with which words."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper, numpy_helper

from conveyor.graph.errors import ModelError
from conveyor.graph.model_file import model_from_proto, read_model
from conveyor.graph.serving import Scatter, build_serving_graph
from conveyor.signature import Axis, ContextSpec, NoiseSpec, OutputSpec, Signature, StateSpec, TensorSpec
from tests import models
from tests.foreign import make_old_gru, make_rated


def set_metadata(proto: ModelProto, **entries: str) -> ModelProto:
    old = {entry.key: entry.value for entry in proto.metadata_props}
    del proto.metadata_props[:]
    helper.set_model_props(proto, old | {f"conveyor.{key}": value for key, value in entries.items()})
    return proto


def signature_of(proto: ModelProto) -> Signature:
    return model_from_proto(proto).signature


def sign(proto: ModelProto, signature: Signature) -> ModelProto:
    return set_metadata(proto, signature=signature.to_json())


def make() -> ModelProto:
    return models.make_model()[0]


def test_read_model(tmp_path: Path) -> None:
    """A file gives back its signature, vocabulary and provenance."""
    symbols = ["?", *"abcdefghijklmnopqrs"]
    proto = set_metadata(make(), vocabulary=json.dumps(symbols), provenance='{"date": "2026-01-01"}')
    path = models.save_model(tmp_path, proto)
    model = read_model(path)
    assert model.path == path
    assert [state.name for state in model.signature.states] == ["h", "c"]
    assert model.vocabulary is not None
    assert model.vocabulary.encode("b?z") == [2, 0, 0]
    assert model.provenance == {"date": "2026-01-01"}
    assert model.fingerprint == model_from_proto(proto).fingerprint


def test_fingerprint() -> None:
    """It follows weights, attributes and signature, and nothing that does not change an answer."""
    first = model_from_proto(make()).fingerprint
    assert len(first) == 64
    same = set_metadata(make(), provenance='{"command": "other"}')
    same.producer_name = "other"
    same.graph.node[0].doc_string = "a stack trace"
    helper.set_model_props(same.graph.node[0], {"trace": "here"})
    assert model_from_proto(same).fingerprint == first
    assert model_from_proto(models.make_model(seed=1)[0]).fingerprint != first
    bounded = replace(signature_of(make()), max_token=5)
    assert model_from_proto(sign(make(), bounded)).fingerprint != first
    relu, tanh = models.make_model("rnn_relu")[0], models.make_model("rnn_tanh")[0]
    assert model_from_proto(relu).fingerprint != model_from_proto(tanh).fingerprint


def test_unreadable_files(tmp_path: Path) -> None:
    """A missing file, a folder and a file of something else are told apart."""
    with pytest.raises(ModelError, match="No such file"):
        read_model(tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="Is a directory"):
        read_model(tmp_path)
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(ModelError, match=r"text\.onnx: not an ONNX file"):
        read_model(tmp_path / "text.onnx")


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"signature": "{"}, "conveyor.signature: "),
        ({"signature": '{"format": 2}'}, "conveyor.signature: signature: expected format 1"),
        ({"vocabulary": '["a", 1]'}, "conveyor.vocabulary: expected a list of strings"),
        ({"vocabulary": '["a"]'}, "conveyor.vocabulary: 1 entries, but 20 logits"),
        ({"vocabulary": "["}, "conveyor.vocabulary: not JSON"),
        ({"provenance": "[]"}, "conveyor.provenance: expected a JSON object"),
    ],
)
def test_bad_metadata(entries: dict[str, str], words: str) -> None:
    """Malformed metadata is refused by its key."""
    with pytest.raises(ModelError) as caught:
        model_from_proto(set_metadata(make(), **entries))
    assert str(caught.value).startswith(words)


def test_no_signature() -> None:
    """What the graph of a model alone tells is enough, where it leaves nothing open."""
    proto = make()
    signature = signature_of(proto)
    del proto.metadata_props[:]

    model = model_from_proto(proto)

    assert model.signature == signature
    assert model.source == "graph"
    assert "state h -> h_out: first and last state of the same LSTM" in model.decisions


def test_an_open_question() -> None:
    """A graph that leaves something open is refused, with the question and what to do."""
    proto = models.make_step_model()[0]
    del proto.metadata_props[:]
    proto.graph.input[0].type.tensor_type.shape.dim[1].ClearField("dim_param")
    proto.graph.input[0].type.tensor_type.shape.dim[0].ClearField("dim_param")

    with pytest.raises(ModelError, match=r"input tokens: axis 0 is taken for .* `conveyor inspect --write`"):
        model_from_proto(proto)


def test_the_last_word(tmp_path: Path) -> None:
    """A signature beside the file comes before the one in it, and the fingerprint follows."""
    path = models.save_model(tmp_path, make())
    inside = read_model(path)
    (tmp_path / "signature.json").write_text(replace(inside.signature, max_token=7).to_json())

    beside = read_model(path)

    assert (inside.source, beside.source) == ("metadata", "signature.json")
    assert beside.signature.max_token == 7
    assert beside.fingerprint != inside.fingerprint


def test_a_signature_of_several_files(tmp_path: Path) -> None:
    """A file of another name has a signature of its own name: none takes its neighbour's."""
    (tmp_path / "signature.json").write_text("{}")
    (tmp_path / "other.signature.json").write_text("{}")
    onnx.save(make(), tmp_path / "one.onnx")
    onnx.save(make(), tmp_path / "other.onnx")

    assert read_model(tmp_path / "one.onnx").source == "metadata"
    with pytest.raises(ModelError, match=r"other\.onnx: other\.signature\.json: signature: expected format 1"):
        read_model(tmp_path / "other.onnx")


def test_tokens_without_a_bound() -> None:
    """A model of tokens whose last one is not known is refused: nobody could tell a bad token from a good one."""
    unbounded = replace(signature_of(make()), max_token=None)
    with pytest.raises(ModelError, match="max_token: a model of tokens has to say which is the last"):
        model_from_proto(sign(make(), unbounded))


def test_a_context_of_integers_without_a_bound() -> None:
    """The same holds for what is given at opening, whatever the steps take."""
    label = ContextSpec("label", "int64", (), Axis(batch=0))
    with pytest.raises(ModelError, match="max_token: a model with a context of whole numbers has to say which"):
        model_from_proto(labelled(models.make_feature_model()[0], label))


def labelled(proto: ModelProto, label: ContextSpec) -> ModelProto:
    """The model with a context that nothing reads."""
    signature = replace(signature_of(proto), contexts=(label,))
    proto.graph.input.append(models.value_info(label))
    return sign(proto, signature)


def test_more_tokens_than_logits() -> None:
    """A bound beyond the vocabulary is refused: such a token could not be scored."""
    beyond = replace(signature_of(make()), max_token=20)
    with pytest.raises(ModelError, match="max_token: 20, but there are 20 logits"):
        model_from_proto(sign(make(), beyond))


def break_domain(proto: ModelProto) -> None:
    proto.opset_import.append(helper.make_opsetid("evil", 1))
    proto.graph.node[0].domain = "evil"


def break_subgraph(proto: ModelProto) -> None:
    inner = helper.make_node("Run", [], ["s"], name="inner", domain="evil")
    branch = helper.make_graph([inner], "b", [], [helper.make_empty_tensor_value_info("s")])
    proto.graph.node.append(helper.make_node("If", ["flag"], ["sum"], then_branch=branch, else_branch=branch))


def break_external(proto: ModelProto) -> None:
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weights.bin")


def break_name(proto: ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(1), "conveyor.lengths"))


def break_opset(version: int) -> Callable[[ModelProto], None]:
    def change(proto: ModelProto) -> None:
        proto.opset_import[0].version = version

    return change


def break_order(proto: ModelProto) -> None:
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def break_input(proto: ModelProto) -> None:
    proto.graph.input.append(helper.make_tensor_value_info("stray", onnx.TensorProto.FLOAT, [1]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (break_domain, "node Gather_0: operators of domain 'evil' are not served"),
        (break_subgraph, "node inner: operators of domain 'evil' are not served"),
        (break_external, "weight embedding lies in another file, which was not read"),
        (break_name, "tensor conveyor.lengths: names that start with 'conveyor.' are the server's own"),
        (break_opset(99), "opset 99 of ai.onnx is too new; export with at most 26"),
        (break_opset(6), "opset 6 is too old; export with at least 7"),
        (break_order, "malformed graph: Nodes in a graph must be topologically sorted"),
        (break_input, "input stray: has no role in the signature"),
    ],
)
def test_refused_graphs(change: Callable[[ModelProto], None], words: str) -> None:
    """Graphs that are malformed, foreign or not in one file are refused with one sentence."""
    proto = make()
    change(proto)
    with pytest.raises(ModelError) as caught:
        model_from_proto(proto)
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


def without_metadata(proto: ModelProto) -> ModelProto:
    del proto.metadata_props[:]
    return proto


WHOLE = {
    "exported": make().SerializeToString(),
    "bare": without_metadata(make()).SerializeToString(),
    "old": make_old_gru(9).SerializeToString(),
    "branches": make_rated().SerializeToString(),
}


@pytest.mark.parametrize("kind", WHOLE)
@settings(max_examples=200)
@given(edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_corrupt_files(kind: str, edits: list[tuple[float, int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """A file with any byte changed is read, or refused in words."""
    content = bytearray(WHOLE[kind])
    for place, value in edits:
        content[int(place * len(content))] = value
    path = tmp_path_factory.getbasetemp() / "corrupt.onnx"
    path.write_bytes(content)
    with suppress(ModelError):
        build_serving_graph(read_model(path), num_rows=None, scatter=Scatter.ND)


TOKENS = Axis(batch=1, time=0)
STATE = Axis(batch=1)


@pytest.mark.parametrize(
    ("role", "spec", "words"),
    [
        ("inputs", TensorSpec("words", "int64", (), TOKENS), "input words: the signature names it, but the graph has"),
        (
            "inputs",
            TensorSpec("tokens", "int32", (), TOKENS),
            "input tokens: the signature says int32, the graph int64",
        ),
        (
            "inputs",
            TensorSpec("tokens", "int64", (), Axis(batch=0)),
            "input tokens: the signature says 1 axes, the grap",
        ),
        ("states", StateSpec("h", "float32", (1, 9), STATE, "h_out"), "input h: axis 2 should be 9 long, it is 16"),
        (
            "states",
            StateSpec("h", "float32", (1, 16), Axis(batch=2), "h_out"),
            "input h: axis 2 is the batch axis, but",
        ),
        ("states", StateSpec("h", "float32", (1, 16), STATE, "h_new"), "output h_new: the signature names it, but the"),
        (
            "outputs",
            OutputSpec("logits", "float16", (20,), TOKENS),
            "output logits: the signature says float16, the gr",
        ),
        ("contexts", ContextSpec("image", "float32", (3,)), "input image: the signature names it, but the graph has"),
        ("noises", NoiseSpec("eps", "float32", (3,), TOKENS), "input eps: the signature names it, but the graph has"),
    ],
)
def test_signature_that_differs(role: str, spec: TensorSpec, words: str) -> None:
    """Each tensor must be in the graph as the signature has it."""
    signature = signature_of(make())
    others = tuple(old for old in getattr(signature, role) if old.name != spec.name)
    changed = replace(signature, **{role: (spec,) if role == "inputs" else (spec, *others)})
    with pytest.raises(ModelError) as caught:
        model_from_proto(sign(make(), changed))
    assert str(caught.value).startswith(words)


def test_time_axis_that_is_fixed() -> None:
    """A time axis of fixed length is refused, said so in the signature or not, unless it is one step."""
    proto = make()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    signature = signature_of(make())
    with pytest.raises(ModelError, match="input tokens: axis 0 is the time axis, but the graph fixes it to 4"):
        model_from_proto(proto)
    with pytest.raises(ModelError, match="fixed_steps: 4; only graphs of any number of steps, or of 1, are served"):
        model_from_proto(sign(proto, replace(signature, fixed_steps=4)))


def test_output_without_time() -> None:
    """An output that has one value a chunk cannot be cut into steps."""
    signature = signature_of(make())
    output = replace(signature.outputs[0], axis=Axis(batch=0))
    proto = make()
    del proto.graph.output[0].type.tensor_type.shape.dim[0]
    with pytest.raises(ModelError, match="output logits: has no time axis, though the inputs have one"):
        model_from_proto(sign(proto, replace(signature, outputs=(output,))))

"""Files that nobody vouches for: each bad one is one readable sentence, and hurts nobody but its trial."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from conveyor.engine.trial import Bounds, try_foreign
from conveyor.graph.errors import ModelError
from conveyor.graph.model_file import read_model
from conveyor.server import start_server
from conveyor.settings import Settings
from conveyor.signature import Axis
from tests.foreign import make_sums, save_foreign
from tests.models import make_model, save_model

BOUNDS = Bounds(num_bytes=6 * 1024**3, seconds=20, max_batch=4)
Values = list[onnx.ValueInfoProto]


def make_step(nodes: list[onnx.NodeProto], *constants: onnx.TensorProto) -> onnx.ModelProto:
    """A model of `x` and `h` `[B, 3]`, whose nodes make `hn` of them; `y` is the same."""
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["B", 3]) for n in ("x", "h", "y", "hn")]
    graph = helper.make_graph([*nodes, helper.make_node("Identity", ["hn"], ["y"])], "g", values[:2], values[2:])
    graph.initializer.extend(constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def make_bomb() -> onnx.ModelProto:
    """Of a few hundred bytes, and takes 32 GiB when it runs."""
    nodes = [
        helper.make_node("ConstantOfShape", ["length"], ["many"]),
        helper.make_node("ReduceSum", ["many"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["x", "h"], ["sum"]),
        helper.make_node("Add", ["sum", "nothing"], ["hn"]),
    ]
    return make_step(nodes, numpy_helper.from_array(np.array([2**33]), "length"))


def make_endless() -> onnx.ModelProto:
    """Goes round and round."""
    flag = helper.make_tensor_value_info("go_on", TensorProto.BOOL, [])
    again = helper.make_tensor_value_info("still", TensorProto.BOOL, [])
    count = helper.make_tensor_value_info("round", TensorProto.INT64, [])
    body = helper.make_graph([helper.make_node("Identity", ["go_on"], ["still"])], "body", [count, flag], [again])
    held = helper.make_tensor_value_info("held", TensorProto.FLOAT, None)
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    body.input.append(held)
    body.output.append(out)
    body.node.append(helper.make_node("Add", ["held", "x"], ["out"]))
    nodes = [helper.make_node("Loop", ["", "yes", "h"], ["hn"], body=body)]
    return make_step(nodes, numpy_helper.from_array(np.array(True), "yes"))


def test_a_good_file_is_known_afterwards(tmp_path: Path) -> None:
    """A file is tried and its fingerprint told; what conveyor-export wrote is not tried."""
    foreign = save_foreign(tmp_path / "foreign", make_sums(0, 1)[0])
    ours = save_model(tmp_path / "ours", make_model()[0])

    assert try_foreign([ours, foreign], BOUNDS) == {foreign: read_model(foreign).fingerprint}
    assert try_foreign([ours], BOUNDS) == {}


@pytest.mark.parametrize(
    ("proto", "problem"),
    [
        (make_bomb(), "the model cannot make a step: .*Failed to allocate memory"),
        (make_step([helper.make_node("Cast", ["h"], ["hn"], to=TensorProto.FLOAT16)]), "cannot load the graph"),
        (make_step([helper.make_node("LSTM", ["x", "h"], ["hn"])]), "malformed graph"),
    ],
)
def test_a_bad_file_is_one_sentence(proto: onnx.ModelProto, problem: str, tmp_path: Path) -> None:
    """The message has the path and the reason, and the files before it do not matter."""
    good, bad = save_foreign(tmp_path / "good", make_sums(0, 1)[0]), save_foreign(tmp_path / "bad", proto)

    with pytest.raises(ModelError, match=problem) as caught:
        try_foreign([good, bad], BOUNDS)
    assert str(caught.value).startswith(f"{bad}: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    """Text, an empty file and a graph in a graph without end are told apart from models."""
    for content in (b"not a model", b"", nested_bytes(5000)):
        path = tmp_path / "model.onnx"
        path.write_bytes(content)
        with pytest.raises(ModelError, match=f"{path}: ") as caught:
            try_foreign([path], BOUNDS)
        assert "\n" not in str(caught.value)


def nested_bytes(depth: int) -> bytes:
    """A model whose only node has a graph whose only node has a graph, as bytes: no library would write it."""

    def field(number: int, body: bytes) -> bytes:
        size, length = b"", len(body)
        while length > 127:
            size, length = size + bytes([length & 127 | 128]), length >> 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + body

    graph = b""
    for _ in range(depth):
        attribute = field(1, b"body") + field(6, graph)
        graph = field(1, field(5, attribute))
    return field(7, graph)


def test_a_file_that_never_ends(tmp_path: Path) -> None:
    """After its time the trial is over."""
    path = save_foreign(tmp_path, make_endless())

    with pytest.raises(ModelError, match="did not load and make a step within 1 s"):
        try_foreign([path], replace(BOUNDS, seconds=1))


def test_axes_that_are_not_what_they_seem(tmp_path: Path) -> None:
    """A wrong signature that would run is found out: sessions would hear of each other, or steps of later ones."""
    proto, signature = make_sums(0, 1)
    everything = [axis for axis in proto.graph.node if axis.op_type == "CumSum"]
    everything[0].attribute.append(helper.make_attribute("reverse", 1))
    path = save_foreign(tmp_path, proto, signature)
    with pytest.raises(ModelError, match=r"steps that run together .* in sums: the time axes"):
        try_foreign([path], BOUNDS)

    mixing = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Add", ["h", "mean"], ["hn"]),
    ]
    with pytest.raises(ModelError, match=r"sessions that run together .* in y: the batch axes"):
        try_foreign([save_foreign(tmp_path / "mixing", make_step(mixing))], BOUNDS)


def test_what_is_too_large(tmp_path: Path) -> None:
    """A state that no memory could hold for many is refused by its name."""
    proto, signature = make_sums(0, 1)
    state = replace(signature.states[0], shape=(2**20, 2**20), axis=Axis(batch=0))
    path = save_foreign(tmp_path, proto, replace(signature, states=(state,)))

    with pytest.raises(ModelError, match=r"state: \[1048576, 1048576\] is more than 268435456 elements"):
        try_foreign([path], BOUNDS)


async def test_a_server_does_not_start_with_it(tmp_path: Path) -> None:
    """A server that is given a bad file says so and has crashed in no way."""
    save_foreign(tmp_path / "m" / "1", make_bomb())
    settings = Settings(models=tmp_path, port=0, metrics_port=0, num_threads=1, trial_bytes=6 * 1024**3)

    with pytest.raises(ModelError, match="cannot make a step"):
        await start_server(settings)

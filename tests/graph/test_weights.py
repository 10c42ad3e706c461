"""Weights in files of their own."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from conveyor.graph.errors import ModelError
from conveyor.graph.model_file import read_model
from tests.models import make_model, save_model


def save_split(folder: Path) -> Path:
    """A model whose weights lie in `weights.bin`."""
    folder.mkdir(parents=True, exist_ok=True)
    proto, _ = make_model()
    path = folder / "model.onnx"
    onnx.save_model(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def relocate(path: Path, location: str) -> None:
    """Lets every outside weight say that it lies elsewhere."""
    proto = onnx.load_model(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(proto.SerializeToString())


def test_weights_beside_the_graph(tmp_path: Path) -> None:
    """A model in two files is the one in a single file."""
    split, whole = read_model(save_split(tmp_path / "split")), read_model(save_model(tmp_path, make_model()[0]))

    assert split.fingerprint == whole.fingerprint


def test_a_folder_that_is_a_link(tmp_path: Path) -> None:
    """Links that stay in the model's folder are followed."""
    save_split(tmp_path / "..data")
    (tmp_path / "1").symlink_to(tmp_path / "..data")

    assert read_model(tmp_path / "1" / "model.onnx").signature.states


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "link.bin", ""])
def test_weights_outside_the_folder(tmp_path: Path, location: str) -> None:
    """Nothing outside the model's folder is read, not even through a link in it."""
    path = save_split(tmp_path / "1")
    (tmp_path / "secret.bin").write_bytes(b"x" * 10_000)
    (tmp_path / "1" / "link.bin").symlink_to(tmp_path / "secret.bin")
    relocate(path, location)

    with pytest.raises(ModelError, match="is not in the model's folder"):
        read_model(path)


def test_weights_that_are_missing(tmp_path: Path) -> None:
    """A file that is not there, or ends too early, is told by the weight's name."""
    path = save_split(tmp_path)
    weights = tmp_path / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"weight embedding: weights\.bin ends before it does"):
        read_model(path)

    weights.unlink()
    with pytest.raises(ModelError, match=r"weight embedding: .*No such file"):
        read_model(path)


def test_weights_of_every_kind(tmp_path: Path) -> None:
    """Constants in branches, functions and sparse tensors are held to the same folder: nothing else is ever opened."""
    (tmp_path / "secret.bin").write_bytes(b"x" * 64)
    folder = tmp_path / "1"
    folder.mkdir()
    outside = TensorProto(name="outside", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="../secret.bin")
    constant = helper.make_node("Constant", [], ["c"], value=outside)
    branch = helper.make_graph([constant], "b", [], [helper.make_empty_tensor_value_info("c")])
    function = helper.make_function("mine", "F", [], ["c"], [constant], [helper.make_opsetid("", 17)])
    indices = helper.make_tensor("indices", TensorProto.INT64, [2], [0, 1])
    for change in (
        lambda proto: proto.graph.node.append(helper.make_node("If", ["f"], ["o"], then_branch=branch)),
        lambda proto: proto.functions.append(function),
        lambda proto: proto.graph.sparse_initializer.append(helper.make_sparse_tensor(outside, indices, [4])),
    ):
        proto = make_model()[0]
        change(proto)
        (folder / "model.onnx").write_bytes(proto.SerializeToString())
        with pytest.raises(ModelError, match=r"weight outside: its file .* is not in the model's folder"):
            read_model(folder / "model.onnx")

"""The model that is measured: an LSTM of embedding 256, hidden 512 and vocabulary 256 with random weights."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from conveyor.signature import Axis, OutputSpec, Signature, StateSpec, TensorSpec

NAME = "bench"
VOCABULARY = 256
EMBEDDING = 256
HIDDEN = 512
MAX_SESSIONS = 1024  # most that a row steps

# Metadata keys of the file, and what the server reads there.
_STEPS = Axis(batch=1, time=0)
_SIGNATURE = Signature(
    inputs=(TensorSpec("tokens", "int64", (), _STEPS),),
    states=tuple(StateSpec(name, "float32", (1, HIDDEN), Axis(batch=1), f"{name}_out") for name in ("h", "c")),
    outputs=(OutputSpec("logits", "float32", (VOCABULARY,), _STEPS, is_logits=True),),
    max_token=VOCABULARY - 1,
)


def write_model(folder: Path) -> Path:
    """Writes `NAME/1/model.onnx` into a repository folder and returns its path."""
    path = folder / NAME / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    model = helper.make_model(_graph(), opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    vocabulary = json.dumps([chr(code) for code in range(VOCABULARY)])
    helper.set_model_props(model, {"conveyor.signature": _SIGNATURE.to_json(), "conveyor.vocabulary": vocabulary})
    onnx.save(model, path)
    return path


def _graph() -> onnx.GraphProto:
    states = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "B", HIDDEN]) for name in ("h", "c")]
    new_states = [
        helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [1, "B", HIDDEN]) for name in ("h", "c")
    ]
    nodes = [
        helper.make_node("Gather", ["embedding", "tokens"], ["embedded"]),
        helper.make_node("LSTM", ["embedded", "W", "R", "", "", "h", "c"], ["y", "h_out", "c_out"], hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["y", "direction"], ["top"]),
        helper.make_node("MatMul", ["top", "projection"], ["logits"]),
    ]
    return helper.make_graph(
        nodes,
        NAME,
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["T", "B"]), *states],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["T", "B", VOCABULARY]), *new_states],
        _weights(),
    )


def _weights() -> list[onnx.TensorProto]:
    random = np.random.default_rng(0)
    shapes = {
        "embedding": (VOCABULARY, EMBEDDING),
        "W": (1, 4 * HIDDEN, EMBEDDING),
        "R": (1, 4 * HIDDEN, HIDDEN),
        "projection": (HIDDEN, VOCABULARY),
    }
    weights = {name: random.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes.items()}
    weights["direction"] = np.array([1])
    return [numpy_helper.from_array(array, name) for name, array in weights.items()]

"""Graphs of old operator sets, and graphs of functions."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from conveyor.graph.errors import ModelError
from conveyor.graph.model_file import model_from_proto
from conveyor.graph.modern import modernised
from tests.foreign import make_old_gru


@pytest.mark.parametrize("opset", [7, 9, 11, 12])
def test_old_operator_sets(opset: int) -> None:
    """A graph of any set that ONNX Runtime runs is brought to one that can be built around, and answers the same."""
    proto = make_old_gru(opset)
    rng = np.random.default_rng(0)
    feeds = {
        "x": rng.normal(size=(2, 3, 4)).astype(np.float32),
        "h": rng.normal(size=(1, 3, 5)).astype(np.float32),
    }

    model = model_from_proto(proto)

    assert [state.output for state in model.signature.states] == ["hn"]
    old, new = (
        ort.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)
        for each in (proto, model.proto)
    )
    for one, two in zip(old, new, strict=True):
        np.testing.assert_array_equal(one, two)


def test_functions() -> None:
    """A graph of functions, whatever their domain, is served as what they stand for."""
    body = [helper.make_node("Add", ["a", "b"], ["sum"])]
    opset = [helper.make_opsetid("", 17)]
    function = helper.make_function("mine", "Plus", ["a", "b"], ["sum"], body, opset)
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["B", 3]) for n in ("x", "state", "y", "state_out")]
    nodes = [
        helper.make_node("Plus", ["x", "state"], ["state_out"], domain="mine"),
        helper.make_node("Neg", ["state_out"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", values[:2], values[2:])
    imports = [*opset, helper.make_opsetid("mine", 1)]
    proto = helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=8)

    model = model_from_proto(proto)

    assert [node.op_type for node in model.proto.graph.node] == ["Add", "Neg"]
    changed = onnx.ModelProto.FromString(proto.SerializeToString())
    changed.functions[0].node[0].op_type = "Mul"
    assert model_from_proto(changed).fingerprint != model.fingerprint


def test_what_cannot_be_rewritten() -> None:
    """An operator that onnx cannot bring up to date is told in one sentence."""
    proto = make_old_gru(7)
    proto.graph.node.append(helper.make_node("Upsample", ["y"], ["z"], mode="nearest", scales=[1.0, 1.0]))
    proto.graph.node[-1].domain = "nobody.knows"

    with pytest.raises(ModelError, match="opset 7 cannot be brought to 13: "):
        modernised(proto)

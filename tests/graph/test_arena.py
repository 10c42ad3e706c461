"""How states lie in arenas, and the rule that lets them be updated in place."""

from math import prod

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from conveyor.graph.arena import READ_SLOTS, WRITE_SLOTS, check_arena_order, check_arena_size, pack_states
from conveyor.graph.errors import ModelError
from conveyor.graph.model_file import model_from_proto
from conveyor.graph.serving import Scatter, build_serving_graph
from conveyor.signature import Axis, OutputSpec, Signature, StateSpec, TensorSpec
from tests import models

INPUT = TensorSpec("x", "float32", (3,), Axis(batch=0))
ARENA = "conveyor.arena.float32"


def serving_proto(scatter: Scatter = Scatter.ND) -> onnx.ModelProto:
    proto, _ = models.make_model()
    return build_serving_graph(model_from_proto(proto), num_rows=None, scatter=scatter).proto


def test_pack_states() -> None:
    """States of a dtype share a row, in the signature's order; initial values are in the initial row."""
    states = (
        StateSpec("h", "float32", (2, 3), Axis(batch=1), "h_out", initial=(1, 2, 3, 4, 5, 6)),
        StateSpec("count", "int64", (), Axis(batch=0), "count_out", initial=(7,)),
        StateSpec("c", "float32", (4,), Axis(batch=0), "c_out"),
        StateSpec("d", "float32", (), Axis(batch=0), "d_out", initial=(8,)),
    )
    floats, counts = pack_states(Signature((INPUT,), states, ()))
    assert (floats.name, floats.width, floats.row_bytes) == (ARENA, 11, 44)
    assert [(part.name, part.offset, part.size) for part in floats.layouts] == [("h", 0, 6), ("c", 6, 4), ("d", 10, 1)]
    assert (counts.name, counts.width, counts.row_bytes) == ("conveyor.arena.int64", 1, 8)
    np.testing.assert_array_equal(floats.row({}), np.float32([1, 2, 3, 4, 5, 6, 0, 0, 0, 0, 8]))
    np.testing.assert_array_equal(counts.row({}), [7])


@settings(max_examples=60)
@given(shape=st.lists(st.integers(1, 3), max_size=3), place=st.integers(0, 3), scatter=st.sampled_from(Scatter))
def test_state_layouts(shape: list[int], place: int, scatter: Scatter) -> None:
    """A state of any shape, with its batch axis anywhere, is read from its row and written back to it in order."""
    batch, size = min(place, len(shape)), prod(shape)
    factors = np.arange(2, size + 2, dtype=np.float32).reshape(shape)
    builder = models.GraphBuilder()
    builder.constant("factors", torch.from_numpy(np.expand_dims(factors, batch)))
    builder.node("Mul", ["s", "factors"], ["s_out"])
    builder.node("Add", ["s", "x"], ["y"])
    axis = Axis(batch=batch)
    state = StateSpec("s", "float32", tuple(shape), axis, "s_out")
    inputs, outputs = TensorSpec("x", "float32", tuple(shape), axis), OutputSpec("y", "float32", tuple(shape), axis)
    proto = builder.model(Signature((inputs,), (state,), (outputs,)))
    serving = build_serving_graph(model_from_proto(proto), num_rows=None, scatter=scatter)
    rows, slots = np.random.default_rng(0).normal(size=(4, size)).astype(np.float32), np.array([3, 1])
    states = np.stack([rows[slot].reshape(shape) for slot in slots], axis=batch)
    session = ort.InferenceSession(serving.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"x": np.zeros_like(states), ARENA: rows, READ_SLOTS: slots, WRITE_SLOTS: slots[:, None]}
    y, written = session.run(["y", f"{ARENA}.out"], feeds)
    np.testing.assert_array_equal(y, states)
    np.testing.assert_array_equal(written[slots], rows[slots] * factors.ravel())
    np.testing.assert_array_equal(written[[0, 2]], rows[[0, 2]])


def test_arena_size() -> None:
    """An arena that CUDA's 32-bit offsets could not reach is refused, the largest possible one is not."""
    (arena,) = pack_states(Signature((INPUT,), (StateSpec("h", "float32", (1024,), Axis(batch=0), "h_out"),), ()))
    check_arena_size(arena, 2**21 - 1)
    with pytest.raises(ModelError, match="2097152 rows of 1024 float32 are too many for CUDA: at most 2097151 rows"):
        check_arena_size(arena, 2**21)


@pytest.mark.parametrize("scatter", Scatter)
def test_order_of_a_serving_graph(scatter: Scatter) -> None:
    """The graphs that we build keep the rule."""
    check_arena_order(serving_proto(scatter))


def test_second_reader() -> None:
    """A second reader of the arena could run after the scatter has overwritten it."""
    proto = serving_proto()
    proto.graph.node.append(helper.make_node("ReduceSum", [ARENA], ["sum"]))
    with pytest.raises(ModelError, match="needs one Gather and one scatter, and no other reader"):
        check_arena_order(proto)


def test_reader_in_a_subgraph() -> None:
    """A reader that hides in the branch of an If is found too."""
    proto = serving_proto()
    branch = helper.make_graph(
        [helper.make_node("ReduceSum", [ARENA], ["s"])], "b", [], [helper.make_empty_tensor_value_info("s")]
    )
    proto.graph.node.append(helper.make_node("If", ["flag"], ["sum"], then_branch=branch, else_branch=branch))
    with pytest.raises(ModelError, match="no other reader"):
        check_arena_order(proto)


def test_scatter_that_is_not_last() -> None:
    """The scatter's result must not be read again, nor go anywhere but to the graph's output."""
    proto = serving_proto()
    proto.graph.node.append(helper.make_node("Identity", [f"{ARENA}.out"], ["again"]))
    with pytest.raises(ModelError, match="must write the graph's output and nothing else"):
        check_arena_order(proto)
    del proto.graph.node[-1]
    del proto.graph.output[:]
    with pytest.raises(ModelError, match="must write the graph's output"):
        check_arena_order(proto)


def test_scatter_that_does_not_depend_on_the_gather() -> None:
    """Nothing would keep the scatter from running before the Gather."""
    proto = serving_proto()
    gather = next(node for node in proto.graph.node if ARENA in node.input)
    readers = [node for node in proto.graph.node if gather.output[0] in node.input]
    for node in readers:
        node.input[0] = "conveyor.read_slots"
    with pytest.raises(ModelError, match="the new float32 states do not depend on the old ones"):
        check_arena_order(proto)

"""Which graphs take chunks of different lengths in one run: never one whose answers would then be wrong."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from conveyor.graph.arena import READ_SLOTS, WRITE_SLOTS
from conveyor.graph.model_file import model_from_proto
from conveyor.graph.serving import LENGTHS, Scatter, ServingGraph, build_serving_graph
from conveyor.signature import Axis, OutputSpec, Signature, StateSpec, TensorSpec
from tests.models import GraphBuilder, make_lone_model, make_model, make_step_model

HIDDEN = 4
TIMED = Axis(batch=1, time=0)


def build(proto: ModelProto) -> ServingGraph:
    return build_serving_graph(model_from_proto(proto), num_rows=None, scatter=Scatter.ND)


Link = Callable[["Chain"], None]


class Chain:
    """A graph under construction: an LSTM between operators that are put before and after it."""

    def __init__(self) -> None:
        self.graph = GraphBuilder()
        self.top = "x"
        self.count = 0

    def add(self, op_type: str, *constants: torch.Tensor, **attributes: object) -> None:
        inputs = [self.top, *(self.graph.constant(f"k{self.count}.{i}", c) for i, c in enumerate(constants))]
        self.top = f"v{self.count}"
        self.count += 1
        self.graph.node(op_type, inputs, [self.top], **attributes)

    def add_all(self, links: list[Link]) -> None:
        for link in links:
            link(self)

    def add_lstm(self, **attributes: object) -> None:
        torch.manual_seed(0)
        weights = [torch.randn(1, 4 * HIDDEN, HIDDEN), torch.randn(1, 4 * HIDDEN, HIDDEN), torch.randn(1, 8 * HIDDEN)]
        names = [self.graph.constant(name, w) for name, w in zip("WRB", weights, strict=True)]
        inputs, outputs = [self.top, *names, "", "h", "c"], ["Y", "h_out", "c_out"]
        self.graph.node("LSTM", inputs, outputs, hidden_size=HIDDEN, **attributes)
        self.top = "Y"
        self.add("Squeeze", torch.tensor([1]))

    def model(self, state: str = "h_out") -> ModelProto:
        self.graph.node("Identity", [self.top], ["y"])
        states = [StateSpec("h", "float32", (1, HIDDEN), Axis(batch=1), state)]
        states.append(StateSpec("c", "float32", (1, HIDDEN), Axis(batch=1), "c_out"))
        spec = TensorSpec("x", "float32", (HIDDEN,), TIMED)
        return self.graph.model(Signature((spec,), tuple(states), (OutputSpec("y", "float32", (HIDDEN,), TIMED),)))


def op(op_type: str, *constants: torch.Tensor, **attributes: object) -> Link:
    return lambda chain: chain.add(op_type, *constants, **attributes)


# Each keeps the shape [T, B, 4] and treats every step by itself.
APART: dict[str, list[Link]] = {
    "tanh": [op("Tanh")],
    "scale": [op("Mul", torch.tensor([0.5, 1, 2, 3]))],
    "matmul": [op("MatMul", torch.eye(HIDDEN).flip(0) * 2)],
    "softmax": [op("Softmax", axis=-1)],
    "norm": [op("LayerNormalization", torch.ones(HIDDEN), axis=-1)],
    "pick": [op("Gather", torch.tensor([3, 1, 0, 2]), axis=2)],
    "merge": [op("Unsqueeze", torch.tensor([2])), op("Reshape", torch.tensor([0, 0, -1]))],
    "turn": [op("Transpose", perm=[2, 0, 1]), op("Transpose", perm=[1, 2, 0])],
    "cut": [op("Slice", torch.tensor([1]), torch.tensor([2]), torch.tensor([-1])), op("Mul", torch.ones(HIDDEN))],
}
# These may not.
MIXED: dict[str, list[Link]] = {
    "running sum": [op("CumSum", torch.tensor(0))],
    "softmax over time": [op("Softmax", axis=0)],
    "shuffle": [op("Transpose", perm=[1, 0, 2]), op("Reshape", torch.tensor([-1, 2, HIDDEN]))],
    "regroup": [op("Reshape", torch.tensor([-1, 2, HIDDEN]))],
    "norm over all": [op("LpNormalization", axis=0)],
}


def run_rows(serving: ServingGraph, x: np.ndarray, lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    session = ort.InferenceSession(serving.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    slots = np.arange(len(lengths))
    arena = np.linspace(-1, 1, len(lengths) * 8, dtype=np.float32).reshape(-1, 8)
    feeds = {"x": x, READ_SLOTS: slots, WRITE_SLOTS: slots[:, None], LENGTHS: np.array(lengths, np.int32)}
    return tuple(session.run(["y", "conveyor.arena.float32.out"], feeds | {"conveyor.arena.float32": arena}))


@settings(max_examples=60)
@given(
    before=st.lists(st.sampled_from(sorted(APART)), max_size=4),
    after=st.lists(st.sampled_from(sorted(APART)), max_size=4),
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
)
def test_padding_changes_nothing(before: list[str], after: list[str], lengths: list[int]) -> None:
    """Whatever stands behind a short chunk, its outputs and state are the same."""
    chain = Chain()
    for name in before:
        chain.add_all(APART[name])
    chain.add_lstm()
    for name in after:
        chain.add_all(APART[name])
    serving = build(chain.model())
    assert serving.is_ragged, serving.not_ragged_because
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, len(lengths), HIDDEN)).astype(np.float32)
    other = x.copy()
    for row, length in enumerate(lengths):
        other[length:, row] = 1e3
    (y, state), (other_y, other_state) = run_rows(serving, x, lengths), run_rows(serving, other, lengths)
    np.testing.assert_array_equal(state, other_state)
    for row, length in enumerate(lengths):
        np.testing.assert_array_equal(y[:length, row], other_y[:length, row])


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("is_before", [True, False])
def test_operators_that_mix_steps(name: str, is_before: bool) -> None:
    """A graph with an operator that may look at other steps runs equal lengths only."""
    chain = Chain()
    if is_before:
        chain.add_all(MIXED[name])
    chain.add_lstm()
    if not is_before:
        chain.add_all(MIXED[name])
    serving = build(chain.model())
    assert not serving.is_ragged
    assert LENGTHS not in {value.name for value in serving.proto.graph.input}


@pytest.mark.parametrize(
    ("proto", "words"),
    [
        (make_step_model()[0], "every run has the same number of steps"),
        (make_lone_model()[0], "every run has one session"),
    ],
)
def test_runs_that_need_no_lengths(proto: ModelProto, words: str) -> None:
    """One step or one session a run has no use for lengths."""
    assert build(proto).not_ragged_because == words


def test_state_that_is_a_step() -> None:
    """A state that is cut from the last step of the outputs would be cut from the padding."""
    chain = Chain()
    chain.add_lstm()
    chain.graph.constant("last", torch.tensor([-1]))
    chain.graph.node("Gather", [chain.top, "last"], ["h_last"], axis=0)
    assert build(chain.model("h_last")).not_ragged_because == "Gather picks steps"


def test_state_that_has_steps() -> None:
    """All outputs of a run of one step may be its state, but not those of a longer one."""
    chain = Chain()
    chain.add_lstm()
    assert build(chain.model(chain.top)).not_ragged_because == "state h is not a recurrent operator's final state"


def test_backward_lstm() -> None:
    """A recurrent operator that runs from the end is not one to stop early."""
    chain = Chain()
    chain.add_lstm(direction="reverse")
    assert build(chain.model()).not_ragged_because == "LSTM is not forward"


def test_lengths_of_its_own() -> None:
    """A recurrent operator with sequence lengths keeps them."""
    proto, _ = make_model()
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1], np.int32), "lens"))
    next(node for node in proto.graph.node if node.op_type == "LSTM").input[4] = "lens"
    assert build(proto).not_ragged_because == "LSTM has sequence lengths of its own"

"""The serving graph, run by onnxruntime, is the user's model for every session in every slot."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from conveyor.graph import LENGTHS, READ_SLOTS, WRITE_SLOTS, ModelError, Scatter, ServingGraph, build_serving_graph
from conveyor.graph.model_file import model_from_proto
from conveyor.signature import Axis, OutputSpec, Signature, StateSpec, TensorSpec
from tests import models

NUM_ROWS = 9
CELLS = ["lstm", "gru", "rnn_tanh", "rnn_relu"]


def make_serving(proto: onnx.ModelProto, scatter: Scatter = Scatter.ND) -> ServingGraph:
    return build_serving_graph(model_from_proto(proto), num_rows=NUM_ROWS, scatter=scatter)


class Server:
    """Sessions of one serving graph, whose arenas are bound as input and output; the reference runs beside each."""

    def __init__(self, serving: ServingGraph, reference: models.Reference) -> None:
        self.serving = serving
        self.reference = reference
        self.session = ort.InferenceSession(serving.proto.SerializeToString(), providers=["CPUExecutionProvider"])
        self.binding = self.session.io_binding()
        rows = serving.state_rows({})
        self.arenas = {arena.name: np.tile(rows[arena.name], (NUM_ROWS, 1)) for arena in serving.arenas}
        self.values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in self.arenas.items()}
        for arena in serving.arenas:
            self.binding.bind_ortvalue_input(arena.name, self.values[arena.name])
            self.binding.bind_ortvalue_output(arena.output, self.values[arena.name])
        self.expected = {slot: reference.initial_states(1) for slot in range(NUM_ROWS)}

    def run(
        self, stream: np.ndarray, read: list[int], write: list[int], lengths: list[int] | None = None
    ) -> np.ndarray:
        """Runs one batch and returns the first stream output."""
        feeds = {self.serving.signature.inputs[0].name: stream}
        feeds[READ_SLOTS] = np.array(read)
        feeds[WRITE_SLOTS] = np.array(write)[:, None]
        if lengths is not None:
            feeds[LENGTHS] = np.array(lengths, np.int32)
        for name, array in feeds.items():
            self.binding.bind_cpu_input(name, array)
        output = self.serving.signature.outputs[0].name
        self.binding.bind_output(output)
        pointers = [value.data_ptr() for value in self.values.values()]
        self.session.run_with_iobinding(self.binding)
        *arenas, answers = self.binding.get_outputs()  # in the order of binding
        assert pointers == [arena.data_ptr() for arena in arenas]
        return answers.numpy()

    def step(self, steps: list[torch.Tensor], read: list[int], write: list[int]) -> None:
        """Runs each slot's steps in one padded batch and compares all rows and outputs with the reference's."""
        stream, out = self.serving.signature.inputs[0].axis, self.serving.signature.outputs[0].axis
        lengths = [self.num_steps(one) for one in steps]
        padded = pad(steps, stream.batch, stream.time)
        before = {name: array.copy() for name, array in self.arenas.items()}
        answers = self.run(padded, read, write, lengths if self.serving.is_ragged else None)
        for row, (one, source, target) in enumerate(zip(steps, read, write, strict=True)):
            expected, self.expected[target] = self.reference(one, self.expected[source])
            got = answers if out.batch is None else np.take(answers, [row], out.batch)
            if out.time is not None:
                got = np.take(got, range(lengths[row]), out.time)
            np.testing.assert_allclose(got, expected.numpy(), atol=1e-5)
        self.check_rows(before, set(write))

    def num_steps(self, one: torch.Tensor) -> int:
        time = self.serving.signature.inputs[0].axis.time
        return 1 if time is None else one.shape[time]

    def check_rows(self, before: dict[str, np.ndarray], written: set[int]) -> None:
        for arena in self.serving.arenas:
            for slot in range(NUM_ROWS):
                row = self.arenas[arena.name][slot]
                if slot not in written:
                    np.testing.assert_array_equal(row, before[arena.name][slot])
                for layout in arena.layouts:
                    part = row[layout.offset : layout.offset + layout.size]
                    np.testing.assert_allclose(part, self.expected[slot][layout.name].numpy().ravel(), atol=1e-5)


def pad(steps: list[torch.Tensor], batch: int | None, time: int | None) -> np.ndarray:
    if batch is None:
        return steps[0].numpy()
    if time is None:
        return np.concatenate([one.numpy() for one in steps], axis=batch)
    longest = max(one.shape[time] for one in steps)
    widths = [[(0, 0)] * one.ndim for one in steps]
    for one, width in zip(steps, widths, strict=True):
        width[time] = (0, longest - one.shape[time])
    return np.concatenate([np.pad(one.numpy(), width) for one, width in zip(steps, widths, strict=True)], axis=batch)


def random_slots(rng: np.random.Generator, batch: int) -> tuple[list[int], list[int]]:
    """Slots to read, which may repeat, and others to write, which may not and may be read by no other session."""
    write = rng.permutation(NUM_ROWS)[:batch]
    others = [slot for slot in range(NUM_ROWS) if slot not in write]
    read = [int(slot) if rng.random() < 0.5 or not others else int(rng.choice(others)) for slot in write]
    return read, [int(slot) for slot in write]


@pytest.mark.parametrize("scatter", Scatter)
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_ragged_batches(cell: str, num_layers: int, scatter: Scatter) -> None:
    """Random slots, lengths and batch sizes answer as PyTorch does, in place, and touch no other row."""
    proto, reference = models.make_model(cell, num_layers)
    serving = make_serving(proto, scatter)
    assert serving.is_ragged, serving.not_ragged_because
    server, rng = Server(serving, reference), np.random.default_rng(num_layers)
    for _ in range(12):
        read, write = random_slots(rng, int(rng.integers(1, NUM_ROWS)))
        server.step([torch.from_numpy(rng.integers(0, 20, (int(rng.integers(1, 7)), 1))) for _ in read], read, write)


@pytest.mark.parametrize("scatter", Scatter)
@pytest.mark.parametrize("num_layers", [1, 2])
def test_no_time_axis(num_layers: int, scatter: Scatter) -> None:
    """A model without a time axis takes one step a run, with the batch axis first in its inputs."""
    proto, reference = models.make_frame_model(num_layers=num_layers)
    serving = make_serving(proto, scatter)
    server, rng = Server(serving, reference), np.random.default_rng(0)
    assert (serving.max_steps, serving.is_ragged, serving.can_batch) == (1, False, True)
    for _ in range(8):
        read, write = random_slots(rng, int(rng.integers(1, NUM_ROWS)))
        server.step([torch.from_numpy(rng.normal(size=(1, 3)).astype(np.float32)) for _ in read], read, write)


@pytest.mark.parametrize("scatter", Scatter)
def test_two_arenas(scatter: Scatter) -> None:
    """States of two dtypes go to two arenas, and start at the signature's values."""
    proto, reference = models.make_step_model()
    serving = make_serving(proto, scatter)
    server, rng = Server(serving, reference), np.random.default_rng(0)
    assert [(arena.name, arena.width) for arena in serving.arenas] == [
        ("conveyor.arena.float32", 16),
        ("conveyor.arena.int64", 1),
    ]
    assert (serving.max_steps, serving.is_ragged) == (1, False)
    for _ in range(8):
        read, write = random_slots(rng, int(rng.integers(1, NUM_ROWS)))
        server.step([torch.from_numpy(rng.integers(0, 20, (1, 1))) for _ in read], read, write)


@pytest.mark.parametrize("scatter", Scatter)
def test_no_batch_axis(scatter: Scatter) -> None:
    """A graph without a batch axis serves one session a run, from any slot."""
    proto, reference = models.make_lone_model()
    serving = make_serving(proto, scatter)
    server, rng = Server(serving, reference), np.random.default_rng(0)
    assert (serving.can_batch, serving.max_steps, serving.is_ragged) == (False, None, False)
    for _ in range(8):
        read, write = random_slots(rng, 1)
        server.step([torch.from_numpy(rng.normal(size=(4, 1, 3)).astype(np.float32))], read, write)


@pytest.mark.parametrize("cell", CELLS)
def test_feature_frames(cell: str) -> None:
    """A stream of float frames is served as a stream of tokens is."""
    proto, reference = models.make_feature_model(cell, num_layers=2)
    serving = make_serving(proto)
    assert serving.is_ragged, serving.not_ragged_because
    server, rng = Server(serving, reference), np.random.default_rng(0)
    for _ in range(8):
        read, write = random_slots(rng, int(rng.integers(1, NUM_ROWS)))
        steps = [rng.normal(size=(int(rng.integers(1, 5)), 1, 3)).astype(np.float32) for _ in read]
        server.step([torch.from_numpy(one) for one in steps], read, write)


def test_out_of_range_slot() -> None:
    """A slot beyond the arena fails the run on the CPU before any row is written."""
    proto, reference = models.make_model()
    server = Server(make_serving(proto), reference)
    before = server.arenas["conveyor.arena.float32"].copy()
    for read, write in [([NUM_ROWS], [1]), ([1], [NUM_ROWS])]:
        with pytest.raises(Exception, match="indice"):
            server.run(np.zeros((1, 1), np.int64), read, write, [1])
    np.testing.assert_array_equal(server.arenas["conveyor.arena.float32"], before)


def test_user_graph_is_unchanged() -> None:
    """Building a serving graph leaves the model file as it was."""
    proto, _ = models.make_model()
    before = proto.SerializeToString(deterministic=True)
    serving = make_serving(proto)
    assert proto.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(serving.proto, full_check=True)


def test_no_states() -> None:
    """A model without states has no arenas and no slots, and runs as it is."""
    builder = models.GraphBuilder()
    builder.node("Tanh", ["x"], ["y"])
    axis = Axis(batch=0)
    signature = Signature((TensorSpec("x", "float32", (2,), axis),), (), (OutputSpec("y", "float32", (2,), axis),))
    serving = make_serving(builder.model(signature))
    assert serving.arenas == ()
    assert [value.name for value in serving.proto.graph.input] == ["x"]


def test_new_states_from_nothing() -> None:
    """States that do not depend on the old ones cannot be ordered after the Gather, and are refused."""
    builder = models.GraphBuilder()
    builder.node("Tanh", ["x"], ["y"])
    builder.node("Exp", ["x"], ["s_out"])
    axis = Axis(batch=0)
    state = StateSpec("s", "float32", (2,), axis, "s_out")
    output = OutputSpec("y", "float32", (2,), axis)
    proto = builder.model(Signature((TensorSpec("x", "float32", (2,), axis),), (state,), (output,)))
    with pytest.raises(ModelError, match="the new float32 states do not depend on the old ones"):
        make_serving(proto)


def test_batch_dependent_ops() -> None:
    """Operators that share a quantisation range over the run are named."""
    proto, _ = models.make_model()
    assert make_serving(proto).batch_dependent_ops == ()
    proto.graph.node.append(onnx.helper.make_node("DynamicQuantizeLinear", ["logits"], ["q", "scale", "zero"]))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("q", onnx.TensorProto.UINT8, ["T", "B", 20]))
    assert make_serving(proto).batch_dependent_ops == ("DynamicQuantizeLinear",)

"""The serving graph on ONNX Runtime: in place, where it should be, and nowhere else."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from conveyor.engine.feeds import Feeds, Results
from conveyor.engine.limits import Device
from conveyor.engine.ort import CPU, CUDA
from conveyor.engine.runner import Runner
from conveyor.errors import FailedPrecondition
from conveyor.graph.errors import ModelError
from conveyor.graph.model_file import ModelFile, model_from_proto
from conveyor.signature import Axis, ContextSpec, Signature
from tests.engine import harness
from tests.engine.test_interleaving import Program, actions
from tests.models import make_context_model, make_model, make_walk_model, value_info

NUM_ROWS = 6


@pytest.fixture(scope="module")
def model() -> ModelFile:
    return model_from_proto(make_model()[0])


@pytest.fixture
def runner(model: ModelFile) -> Runner:
    return Runner(model, NUM_ROWS, Device("cpu", num_threads=1))


def feeds_of(read: list[int], write: list[int], **fields: Any) -> Feeds:
    return Feeds(
        1,
        {"tokens": np.full((1, len(read)), 3)},
        np.ones(len(read), np.int32),
        np.array(read),
        np.array(write),
        **fields,
    )


def arena_of(runner: Runner) -> np.ndarray:
    """A copy of the arena's rows."""
    (value,) = runner._arenas.values.values()
    return value.numpy().copy()[:NUM_ROWS]


@pytest.mark.parametrize(
    ("read", "write"), [([1], [NUM_ROWS]), ([NUM_ROWS], [1]), ([-1], [1]), ([1], [-1]), ([1, 2], [3, 99])]
)
def test_a_slot_outside_the_arena_is_refused(runner: Runner, read: list[int], write: list[int]) -> None:
    """A slot that is not a row of the arena is refused before anything is read or written."""
    rows = {"conveyor.arena.float32": np.ones(32, np.float32)}
    results = Results()
    with pytest.raises(ValueError, match="outside the arena"):
        runner.run(feeds_of(read, write, restores=[(1, rows)], spill_slots=[2]), results)

    assert not arena_of(runner).any()
    assert results.spilled == []


@pytest.mark.parametrize("slot", [-1, NUM_ROWS + 2])
def test_a_context_slot_outside_the_arena_is_refused(slot: int) -> None:
    """The contexts of another session are never read for want of a check."""
    runner = Runner(model_from_proto(make_context_model()[0]), NUM_ROWS, Device("cpu", num_threads=1))
    feeds = feeds_of([1], [2], context_slots=np.array([slot]))
    feeds.inputs["noise"] = np.zeros((1, 1, 20), np.float32)
    with pytest.raises(ValueError, match="outside the arena"):
        runner.run(feeds, Results())
    feeds.context_slots = np.array([NUM_ROWS + 1])
    runner.run(feeds, Results())


def test_it_writes_in_place_and_only_there(runner: Runner) -> None:
    """A run changes the rows that it writes, in the arena's own memory, and no others."""
    (value,) = runner._arenas.values.values()
    address = value.data_ptr()
    runner.run(feeds_of([0, 0], [2, 5]), Results())
    arena = arena_of(runner)

    assert value.data_ptr() == address
    assert [bool(row.any()) for row in arena] == [False, False, True, False, False, True]
    np.testing.assert_allclose(arena[2], arena[5], atol=1e-6)


def test_spills_come_before_restores_and_these_before_the_run(runner: Runner) -> None:
    """A slot that is spilled, restored and read in one run gives its old rows first, then takes the new."""
    runner.run(feeds_of([0], [3]), Results())
    before = arena_of(runner)[3]
    results = Results()
    restored = {"conveyor.arena.float32": np.full(32, 0.5, np.float32)}
    runner.run(feeds_of([3], [4], spill_slots=[3], restores=[(3, restored)]), results)
    arena = arena_of(runner)

    np.testing.assert_array_equal(results.spilled[0]["conveyor.arena.float32"], before)
    np.testing.assert_array_equal(arena[3], restored["conveyor.arena.float32"])
    assert not np.allclose(arena[4], before)


def test_spilled_rows_are_copies(runner: Runner) -> None:
    """Rows that were read out stay as they were when their slot is written again."""
    results = Results()
    runner.run(feeds_of([0], [3]), Results())
    runner.run(feeds_of([0], [4], spill_slots=[3]), results)
    before = results.spilled[0]["conveyor.arena.float32"].copy()
    runner.run(feeds_of([3], [3]), Results())

    np.testing.assert_array_equal(results.spilled[0]["conveyor.arena.float32"], before)


def test_outputs_are_only_what_was_asked_for(runner: Runner) -> None:
    """Outputs cross to the host if they are named, time first."""
    quiet, asked = Results(), Results()
    runner.run(feeds_of([0, 0], [1, 2]), quiet)
    runner.run(feeds_of([0, 0], [1, 2], outputs=("logits",)), asked)

    assert quiet.outputs == {}
    assert asked.outputs["logits"].shape == (1, 2, 20)
    assert asked.run_seconds > 0


def test_sizes(model: ModelFile, runner: Runner) -> None:
    """The arena's bytes are its rows' states, and a new session's rows are the initial state."""
    assert runner.arena_bytes == NUM_ROWS * model.signature.state_bytes
    assert {name: row.tolist() for name, row in runner.initial_rows().items()} == {"conveyor.arena.float32": [0.0] * 32}


def test_placement_on_the_cpu(runner: Runner) -> None:
    """On the CPU every node is on the CPU provider, the recurrent one and the arena's among them."""
    placement = runner.placement()

    assert {node.provider for node in placement} == {CPU}
    assert {"LSTM", "Gather", "ScatterND"} <= {node.op_type for node in placement}
    assert not runner.is_cuda


def has_cuda() -> bool:
    return CUDA in onnxruntime.get_available_providers()


@pytest.mark.skipif(has_cuda(), reason="CUDA is there")
def test_cuda_asked_for_and_absent(model: ModelFile) -> None:
    """Asking for CUDA where there is none is an error, never a quiet run on the CPU; `auto` takes the CPU."""
    with pytest.raises(FailedPrecondition, match="cuda was asked for"):
        Runner(model, NUM_ROWS, Device("cuda"))
    assert not Runner(model, NUM_ROWS, Device("auto", num_threads=1)).is_cuda


@pytest.mark.gpu
@pytest.mark.skipif(not has_cuda(), reason="needs an NVIDIA GPU and onnxruntime-gpu")
class TestCuda:
    @pytest.fixture(autouse=True)
    def _on_cuda(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(harness, "PROVIDER", "cuda")

    @pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
    def test_any_interleaving_equals_each_session_alone(self, cell: str) -> None:
        """On the GPU, too, what happens to other sessions never shows in a session's answers."""

        @settings(max_examples=40)
        @given(program=st.lists(actions, max_size=40))
        def check(program: list[Any]) -> None:
            play = Program(cell, 2, is_padded=True, num_slots=2, max_batch=3, max_run_steps=4)
            assert play.engine.runner.is_cuda
            for action in program:
                play.play(action)
            play.finish()

        check()

    def test_the_model_is_on_the_gpu(self, model: ModelFile) -> None:
        """No node that touches the state or the weights falls back to the CPU."""
        placement = Runner(model, NUM_ROWS, Device("cuda")).placement()

        assert {node.provider for node in placement if node.op_type in ("LSTM", "Gather", "ScatterElements")} == {CUDA}


def test_a_bound_that_the_model_does_not_keep_is_found_at_load() -> None:
    """The last token that clients may send is tried before any of them does."""
    proto, _ = make_model(vocabulary_size=20)
    (embedding,) = (weight for weight in proto.graph.initializer if weight.name == "embedding")
    embedding.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(embedding)[:10], "embedding"))

    with pytest.raises(ModelError, match="the model cannot make a step"):
        Runner(model_from_proto(proto), NUM_ROWS, Device("cpu", num_threads=1)).warm_up(2)


def test_a_context_that_the_model_does_not_know_is_found_at_load() -> None:
    """The same holds for a context that every step looks up."""
    proto, _ = make_walk_model()
    graph, (entry,) = proto.graph, proto.metadata_props
    label = ContextSpec("label", "int64", (), Axis(batch=0))
    signature = Signature.from_json(entry.value)
    entry.value = replace(signature, contexts=(*signature.contexts, label), max_token=10).to_json()
    graph.input.append(value_info(label))
    graph.initializer.append(numpy_helper.from_array(np.ones((10, 2), np.float32), "table"))
    next(node for node in graph.node if "place" in node.output).output[0] = "way_there"
    graph.node.append(helper.make_node("Gather", ["table", "label"], ["beside"]))
    graph.node.append(helper.make_node("Add", ["way_there", "beside"], ["place"]))
    gather = next(node for node in graph.node if "at_out" in node.output)
    gather.input[0] = "way_there"

    with pytest.raises(ModelError, match=r"the model cannot make a step: .*out of data bounds"):
        Runner(model_from_proto(proto), NUM_ROWS, Device("cpu", num_threads=1)).warm_up(1)

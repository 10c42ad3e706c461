"""Models of every form, served to several sessions at once, answer as PyTorch does to each alone."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch

from conveyor.engine.work import EndReason, Want
from conveyor.errors import RunFailed
from conveyor.signature import Axis, OutputSpec, Signature, TensorSpec
from tests import models
from tests.engine.harness import ManualEngine

NAMES = "abcde"
FEW_SLOTS = {"num_slots": 2, "max_batch": 2, "max_run_steps": 4}


def steps_of(proto: onnx.ModelProto, num_steps: int, seed: int) -> np.ndarray:
    """Random steps `[n, ...]` for the model's one stream input."""
    engine = ManualEngine(proto)
    spec, random = engine.model.signature.inputs[0], np.random.default_rng(seed)
    if spec.dtype == "int64":
        return random.integers(0, 20, num_steps)
    return random.normal(size=(num_steps, *spec.shape)).astype(np.float32)


def graph_input(proto: onnx.ModelProto, step: np.ndarray) -> torch.Tensor:
    """One step as the reference takes it: with a time axis and a batch axis where the graph has them."""
    axis = ManualEngine(proto).model.signature.inputs[0].axis
    for position in sorted(p for p in (axis.batch, axis.time) if p is not None):
        step = np.expand_dims(step, position)
    return torch.from_numpy(step)


def reference_outputs(proto: onnx.ModelProto, reference: Any, steps: np.ndarray) -> list[np.ndarray]:
    """What PyTorch gives for these steps, one after the other."""
    states, outputs = reference.initial_states(1), []
    for step in steps:
        output, states = reference(graph_input(proto, step), states)
        outputs.append(output.numpy())
    return outputs


def check_interleaved(proto: onnx.ModelProto, reference: Any, **limits: int) -> ManualEngine:
    """Feeds five sessions chunks of different lengths in turns, with a failed run between, and compares all answers."""
    engine = ManualEngine(proto, **{**FEW_SLOTS, **limits})
    output = engine.model.signature.outputs[0].name
    texts = {name: steps_of(proto, 15, seed) for seed, name in enumerate(NAMES)}
    for name in NAMES:
        engine.open(name)
    for round_, (start, stop) in enumerate([(0, 1), (1, 7), (7, 9), (9, 15)]):
        for name in NAMES:
            engine.chunk(name, texts[name][start:stop], Want(names=(output,)), tag=(name, round_))
        engine.run_all()
        fail_once(engine, NAMES[round_], texts["a"][:3])
    for name in NAMES:
        got = [engine.answer((name, round_)).outputs[output] for round_ in range(4)]
        expected = reference_outputs(proto, reference, texts[name])
        np.testing.assert_allclose(
            np.concatenate(got).reshape(15, -1), np.stack(expected).reshape(15, -1), atol=1e-4, err_msg=name
        )
    return engine


def fail_once(engine: ManualEngine, name: str, steps: np.ndarray) -> None:
    """A chunk whose run fails, which must leave no trace."""
    engine.chunk(name, steps, tag=(name, "fails"))
    engine.run(RuntimeError("lost"))
    assert isinstance(engine.sink.outcomes[name, "fails"][-1], RunFailed)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_feature_frames(cell: str) -> None:
    """A model of feature frames batches chunks of different lengths."""
    engine = check_interleaved(*models.make_feature_model(cell, num_layers=2))

    assert max(engine.batch_sizes) == 2


def test_no_time_axis() -> None:
    """A model without a time axis takes chunks of any length, step by step."""
    engine = check_interleaved(*models.make_frame_model())

    assert max(engine.batch_sizes) == 2


def test_integer_state_and_initial_values() -> None:
    """A model that starts from given values and counts its steps in int64 keeps both through spilling."""
    engine = check_interleaved(*models.make_step_model())

    assert {arena.dtype for arena in engine.runner.graph.arenas} == {"float32", "int64"}


def test_no_batch_axis() -> None:
    """A model without a batch axis serves its sessions one by one, in long runs all the same."""
    engine = check_interleaved(*models.make_lone_model())

    assert set(engine.batch_sizes) == {1}


def test_a_new_session_starts_from_the_initial_values() -> None:
    """A session that takes over a slot and an id starts as the model says, not as the one before left it."""
    proto, reference = models.make_step_model()
    engine = ManualEngine(proto, num_slots=1, max_batch=1)
    steps = steps_of(proto, 3, 0)
    for round_ in range(3):
        engine.open("a")
        engine.chunk("a", steps, Want(names=("logits",)), tag=round_)
        engine.run_all()
        engine.core.end(engine.core.table.get("a"), EndReason.CLOSED)
    expected = np.stack(reference_outputs(proto, reference, steps)).reshape(3, -1)

    for round_ in range(3):
        np.testing.assert_allclose(engine.answer(round_).outputs["logits"], expected, atol=1e-5)


def test_a_model_without_states() -> None:
    """A model that carries nothing from step to step is served too, in chunks of any length."""
    graph, steps = models.GraphBuilder(), Axis(batch=1, time=0)
    graph.node("Neg", ["x"], ["y"])
    inputs, outputs = (TensorSpec("x", "float32", (2,), steps),), (OutputSpec("y", "float32", (2,), steps),)
    engine = ManualEngine(graph.model(Signature(inputs, (), outputs)))
    engine.open("a")
    for length in (1, 3):
        engine.chunk("a", np.ones((length, 2)), Want(names=("y",)), tag=length)
        engine.run_all()

    assert [engine.answer(length).outputs["y"].tolist() for length in (1, 3)] == [[[-1, -1]], 3 * [[-1, -1]]]


def test_an_ended_session_holds_no_contexts() -> None:
    """What a client gave is forgotten with its session, though the deadline of the session still stands."""
    engine = ManualEngine(models.make_context_model()[0])
    engine.open("a", {"picture": np.ones(3, np.float32)})
    session = engine.core.table.get("a")
    engine.core.end(session, EndReason.CLOSED)

    assert session.contexts is None
    assert session.initial is None

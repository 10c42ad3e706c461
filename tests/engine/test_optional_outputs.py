"""Outputs on request: computed only if somebody asks, and asking changes nothing for anybody."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from conveyor.engine.feeds import Results
from conveyor.engine.limits import Device
from conveyor.engine.runner import Runner
from conveyor.engine.work import Want
from conveyor.graph.errors import ModelError
from conveyor.graph.model_file import ModelFile, model_from_proto
from conveyor.signature import Axis, OutputSpec, Signature
from tests.engine.harness import LOGITS, ManualEngine, alone
from tests.engine.test_runner import feeds_of
from tests.models import make_context_model, make_model, make_step_model, value_info

NUM_ROWS = 12
ASKED = ("doubled", "marks")
NUM_MARKED = 10  # tokens from here on have no mark: looking one up is an error


def offering(proto: onnx.ModelProto, num_marked: int = 20) -> onnx.ModelProto:
    """Adds `doubled`, twice the logits, and `marks`, a token's entry in a table of so many, both on request."""
    table = np.arange(num_marked, dtype=np.float32)
    graph = proto.graph
    graph.initializer.extend([numpy_helper.from_array(np.float32(2), "two"), numpy_helper.from_array(table, "table")])
    graph.node.append(helper.make_node("Mul", ["logits", "two"], ["doubled"], name="double"))
    graph.node.append(helper.make_node("Gather", ["table", "tokens"], ["marks"], name="mark"))
    steps = Axis(batch=1, time=0)
    specs = (
        OutputSpec("doubled", "float32", (20,), steps, is_optional=True),
        OutputSpec("marks", "float32", (), steps, is_optional=True),
    )
    return declare(proto, *specs)


def declare(proto: onnx.ModelProto, *specs: OutputSpec) -> onnx.ModelProto:
    """Makes tensors of the graph outputs."""
    proto.graph.output.extend(value_info(spec) for spec in specs)
    (entry,) = proto.metadata_props
    signature = Signature.from_json(entry.value)
    entry.value = replace(signature, outputs=(*signature.outputs, *specs)).to_json()
    return proto


@pytest.fixture
def runner() -> Runner:
    return runner_of(model_from_proto(offering(make_model()[0], NUM_MARKED)))


def runner_of(model: ModelFile, **options: Any) -> Runner:
    return Runner(model, NUM_ROWS, Device("cpu", num_threads=1), max_batch=4, **options)


@pytest.mark.parametrize("num_sessions", [1, 3, 6])
def test_what_nobody_asks_for_is_not_computed(num_sessions: int, runner: Runner) -> None:
    """A node that would fail fails only the runs that need it, in fixed buffers (up to four sessions) or not."""
    rows = list(range(1, 1 + num_sessions))
    feeds = feeds_of([0] * num_sessions, rows, outputs=("logits",))
    feeds.inputs["tokens"] = np.full((1, num_sessions), NUM_MARKED)
    quiet = Results()
    runner.run(feeds, quiet)

    assert quiet.outputs["logits"].shape == (1, num_sessions, 20)
    feeds.outputs = ("marks",)
    with pytest.raises(Exception, match="indices element out of data bounds"):
        runner.run(feeds, Results())


@pytest.mark.parametrize("is_padded", [True, False])
def test_only_what_is_asked_for_is_given(is_padded: bool) -> None:
    """A run gives the optional outputs that it is asked for and no others; the state moves all the same."""
    runner = runner_of(model_from_proto(offering(make_model()[0])), is_padded=is_padded)
    asked, quiet = Results(), Results()
    runner.run(feeds_of([0, 0], [1, 2], outputs=("marks",)), asked)
    runner.run(feeds_of([0, 0], [3, 4]), quiet)
    (arena,) = runner._arenas.values.values()
    rows = arena.numpy()

    assert {name: array.tolist() for name, array in asked.outputs.items()} == {"marks": [[3.0, 3.0]]}
    assert quiet.outputs == {}
    assert rows[1].any()
    np.testing.assert_array_equal(rows[1:3], rows[3:5])


def test_they_are_tried_at_load(runner: Runner) -> None:
    """An optional output that cannot be had shows before the model serves."""
    with pytest.raises(ModelError, match="the model cannot make a step"):
        runner.warm_up(1)


@pytest.mark.parametrize("make", [make_model, make_step_model])
def test_asking_changes_nothing_else(make: Any) -> None:
    """Sessions that ask at some steps, in one batch with others that never do, all get PyTorch's logits."""
    proto, reference = make()
    engine = ManualEngine(offering(proto))
    random = np.random.default_rng(0)
    texts = {name: random.integers(0, 20, 12).tolist() for name in "abcd"}
    for name in texts:
        engine.open(name)
    for start in range(12):
        for number, (name, text) in enumerate(texts.items()):
            asks = number and start % (number + 1) == 0
            want = Want(names=("logits", *ASKED)) if asks else LOGITS
            engine.chunk(name, text[start : start + 1], want, tag=(name, start))
        engine.run_all()

    assert set(engine.batch_sizes) == {4}
    for name, text in texts.items():
        expected = all_logits(reference, text)
        answers = [engine.answer((name, start)).outputs for start in range(12)]
        got = np.concatenate([outputs["logits"] for outputs in answers])
        np.testing.assert_allclose(got, expected, atol=1e-5)
        for token, outputs in zip(text, answers, strict=True):
            if "marks" in outputs:
                assert outputs["marks"].tolist() == [token]
                np.testing.assert_array_equal(outputs["doubled"], 2 * outputs["logits"])
    assert ["marks" in engine.answer((name, 6)).outputs for name in texts] == [False, True, True, False]


def all_logits(reference: Any, text: list[int]) -> np.ndarray:
    """PyTorch's logits of one session alone, step by step."""
    states, logits = reference.initial_states(1), []
    for token in text:
        output, states = reference(torch.tensor([[token]]), states)
        logits.append(output[0].numpy())
    return np.concatenate(logits)


def test_a_context_may_be_there_for_them_alone() -> None:
    """What only an optional output looks at is kept for each session, beside what others need."""
    proto, _ = make_context_model()
    proto.graph.initializer.append(numpy_helper.from_array(np.arange(3), "first_three"))
    proto.graph.node.append(helper.make_node("Gather", ["logits", "first_three"], ["three"], name="three", axis=2))
    proto.graph.node.append(helper.make_node("Add", ["three", "picture"], ["tints"], name="tint"))
    engine = ManualEngine(declare(proto, OutputSpec("tints", "float32", (3,), Axis(1, 0), is_optional=True)))
    pictures = {name: np.array([n, 0, -n], np.float32) for n, name in enumerate("abc")}
    for name, picture in pictures.items():
        engine.open(name, {"picture": picture}, seed=1)
    for want in (("logits", "tints"), ("logits",)):
        for name in pictures:
            engine.chunk(name, [1, 2, 3], Want(names=want), tag=(name, len(want)))
        engine.run_all()

    for name, picture in pictures.items():
        outputs = engine.answer((name, 2)).outputs
        np.testing.assert_allclose(outputs["tints"], outputs["logits"][:, :3] + picture, atol=1e-6)
        assert list(engine.answer((name, 1)).outputs) == ["logits"]


def test_long_chunks_give_them_for_every_step() -> None:
    """A chunk of many steps has an optional output for each of them, in the graph's one run."""
    proto, reference = make_model()
    engine = ManualEngine(offering(proto))
    engine.open("a")
    engine.chunk("a", list(range(20)), Want(names=ASKED), tag=0)
    engine.run_all()
    outputs = engine.answer(0).outputs

    assert outputs["marks"].tolist() == list(range(20))
    np.testing.assert_allclose(outputs["doubled"], 2 * alone(reference, list(range(20))), atol=1e-5)

"""Unary requests over a real connection."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from conveyor.inference import infer_pb2
from conveyor.server import Server
from tests.rpc.inference.alone import Alone
from tests.rpc.inference.models import make_stateless_model
from tests.rpc.inference.requests import infer, logits, outputs_of, tokens
from tests.rpc.requests import failure_of

X = np.arange(6, dtype=np.float32).reshape(2, 3)


async def test_a_response_says_what_it_is_of(shared: Any) -> None:
    """Model, version, the request's id, and each output with its type and shape."""
    response = await shared.ModelInfer(infer("frames", 1, id="r1", sequence_start=True, features=X[np.newaxis]))

    assert (response.model_name, response.model_version, response.id) == ("frames", "1", "r1")
    assert [(output.name, output.datatype, list(output.shape)) for output in response.outputs] == [
        ("y", "FP32", [1, 2, 5])
    ]


async def test_typed_contents_are_as_good_as_raw_ones(shared: Any) -> None:
    """The same tokens in either form give the same."""
    typed = infer("tiny", 2, sequence_start=True)
    typed.inputs.add(name="tokens", datatype="INT64", shape=[1, 2], contents={"int64_contents": [3, 4]})

    got = outputs_of(await shared.ModelInfer(typed))["logits"][0]

    np.testing.assert_array_equal(got, await logits(shared, "tiny", 1, sequence_start=True, tokens=tokens(3, 4)))


async def test_outputs_are_chosen(shared: Any) -> None:
    """All that cost nothing, or those that are named, in that order."""
    every = outputs_of(await shared.ModelInfer(infer("stateless", x=X)))
    named = outputs_of(await shared.ModelInfer(infer("stateless", x=X, outputs=["double", "y"])))

    assert (list(every), list(named)) == (["y"], ["double", "y"])
    np.testing.assert_allclose(named["double"], 2 * make_stateless_model()[1](X))


async def test_stateless_rows_run_together(oip: Any, server: Server) -> None:
    """Rows of one request and of others share a run, in sessions that are used again."""
    engine = server.engines.of_model("stateless")
    runs = server.metrics.of_model("stateless", 1).runs_of_size
    for _ in range(3):
        await asyncio.gather(*(oip.ModelInfer(infer("stateless", x=X)) for _ in range(2)))

    assert engine.stats().num_sessions <= 4
    assert sum(size * tally.count for size, tally in runs.items()) == 12
    assert max(runs) > 1


async def test_a_context_is_given_with_the_start(shared: Any) -> None:
    """A model that looks at a picture gets it once, as an input of the first request."""
    picture = np.array([[0.5, -1, 2]], np.float32)
    first = infer("pictures", 1, sequence_start=True, tokens=tokens(1), picture=picture)
    lacking = await failure_of(shared.ModelInfer(infer("pictures", 2, sequence_start=True, tokens=tokens(1))))
    await shared.ModelInfer(first)
    again = await failure_of(shared.ModelInfer(infer("pictures", 1, tokens=tokens(2), picture=picture)))
    await shared.ModelInfer(infer("pictures", 1, tokens=tokens(2)))

    assert lacking.field == "inputs[picture]"
    assert again.message == "inputs[picture]: only the request that begins a sequence has it"


async def test_a_model_without_inputs_makes_a_step(shared: Any) -> None:
    """Each request of a walk is a step from where the one before led."""
    home = np.zeros((1, 2), np.float32)
    first = outputs_of(await shared.ModelInfer(infer("walk", 1, sequence_start=True, home=home)))["place"]
    second = outputs_of(await shared.ModelInfer(infer("walk", 1)))["place"]

    assert first.shape == second.shape == (1, 1, 2)
    assert not np.array_equal(first, second)


async def test_the_graphs_own_axes_without_a_batch(shared: Any, models: Path) -> None:
    """A graph for one sequence takes and gives its own shapes."""
    features = np.random.default_rng(3).normal(size=(4, 1, 3)).astype(np.float32)
    (expected,) = Alone(models / "lone" / "1" / "model.onnx").run([{"features": features}])

    got = outputs_of(await shared.ModelInfer(infer("lone", 1, sequence_start=True, features=features)))["y"]

    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def changed(**fields: Any) -> infer_pb2.ModelInferRequest:
    """A good request to `tiny`, but for these fields."""
    request = infer("tiny", 1, sequence_start=True, tokens=tokens(1))
    request.MergeFrom(infer_pb2.ModelInferRequest(**fields))
    return request


UNIMPLEMENTED, INVALID, NOT_FOUND = (
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
)


@pytest.mark.parametrize(
    ("request_", "code", "problem"),
    [
        (infer("none"), NOT_FOUND, "'none'"),
        (infer(""), NOT_FOUND, "model_name"),
        (changed(model_version="2"), NOT_FOUND, "no version 2"),
        (changed(model_version="01x"), INVALID, "model_version"),
        (changed(model_version="0"), INVALID, "model_version"),
        (infer("tiny", 1, sequence_start=True), INVALID, "inputs[tokens]: missing"),
        (infer("tiny", 1, tokens=tokens(1), other=tokens(1)), INVALID, "inputs[other]: expected tokens"),
        (infer("tiny", 1, tokens=np.ones((1, 1), np.float32)), INVALID, "inputs[tokens].datatype"),
        (infer("tiny", 1, tokens=np.array([[1], [2]])), INVALID, "inputs[tokens].shape: expected [1, -1]"),
        (infer("tiny", 1, tokens=np.zeros((1, 0), np.int64)), INVALID, "inputs[tokens].shape"),
        (infer("tiny", 1, sequence_start=True, tokens=tokens(20)), INVALID, "token 20 is outside 0 to 19"),
        (changed(raw_input_contents=[b""]), INVALID, "raw_input_contents: 2 for 1 inputs"),
        (
            changed(inputs=[{"name": "tokens", "datatype": "INT64", "shape": [1, 1]}], raw_input_contents=[bytes(8)]),
            INVALID,
            "inputs[tokens]: given twice",
        ),
        (changed(outputs=[{"name": "h"}]), INVALID, "outputs[h]: expected some of logits"),
        (changed(outputs=[{"name": "logits"}, {"name": "logits"}]), INVALID, "outputs[logits]: named twice"),
        (
            changed(outputs=[{"name": "logits", "parameters": {"classification": {"int64_param": 1}}}]),
            UNIMPLEMENTED,
            "outputs[logits].parameters[classification]",
        ),
        (
            changed(inputs=[{"name": "x", "parameters": {"shared_memory_region": {}}}], raw_input_contents=[b""]),
            UNIMPLEMENTED,
            "shared memory",
        ),
        (infer("stateless", x=np.ones((9, 3), np.float32)), INVALID, "a batch of 9, more than the 8 allowed"),
        (infer("stateless", x=np.full((1, 3), np.nan, np.float32)), INVALID, "NaN"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    shared: Any, request_: infer_pb2.ModelInferRequest, code: grpc.StatusCode, problem: str
) -> None:
    """With the field's name."""
    failure = await failure_of(shared.ModelInfer(request_))

    assert failure.code is code
    assert problem in failure.message


async def test_one_bad_row_fails_its_request_alone(shared: Any) -> None:
    """No row of it counts, and the sessions serve the next request."""
    bad = X.copy()
    bad[1] = np.inf
    await failure_of(shared.ModelInfer(infer("stateless", x=bad)))

    got = outputs_of(await shared.ModelInfer(infer("stateless", x=X)))["y"]

    np.testing.assert_allclose(got, make_stateless_model()[1](X))

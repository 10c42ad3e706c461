"""Unary steps: values, every refusal, retries, cancellation."""

import asyncio
import math
from typing import Any

import grpc
import numpy as np
import pytest
import torch

from conveyor.server import Server
from conveyor.v1 import sequence_service_pb2_grpc, session_pb2, step_pb2, tensor_pb2
from tests.models import make_feature_model, make_model
from tests.rpc.conftest import StartServer
from tests.rpc.requests import (
    failure_of,
    logits,
    open_session,
    position_of,
    step,
    to_array,
    to_tensor,
    until,
)

INVALID = grpc.StatusCode.INVALID_ARGUMENT


async def test_steps_equal_pytorch(stub: Any) -> None:
    """Chunks of any length give what one unbroken run gives."""
    tokens = np.random.default_rng(0).integers(0, 20, 50).tolist()
    session = await open_session(stub)
    results = [await step(stub, session, tokens[a:b], outputs=logits()) for a, b in ((0, 1), (1, 41), (41, 50))]
    reference = make_model()[1]
    expected, _ = reference(torch.tensor(tokens)[:, None], reference.initial_states(1))

    assert [result.position for result in results] == [1, 41, 50]
    got = np.concatenate([to_array(result.outputs["logits"]) for result in results])
    np.testing.assert_allclose(got, expected[:, 0].detach().numpy(), atol=1e-4)


async def test_frames_equal_pytorch(stub: Any) -> None:
    """A model of tensors takes them under its input's name."""
    frames = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    session = await open_session(stub, model="frames")
    chunk = step_pb2.Chunk(session_id=session, inputs={"features": to_tensor(frames)}, outputs=logits("y"))
    result = (await stub.Step(step_pb2.StepRequest(chunk=chunk))).result
    reference = make_feature_model()[1]
    expected, _ = reference(torch.tensor(frames)[:, None], reference.initial_states(1))

    np.testing.assert_allclose(to_array(result.outputs["y"]), expected[:, 0].detach().numpy(), atol=1e-4)


async def test_tokens_may_come_as_a_tensor(stub: Any) -> None:
    """`inputs` with an int64 tensor is the long form of `tokens`."""
    short, long = await open_session(stub), await open_session(stub)
    chunk = step_pb2.Chunk(session_id=long, inputs={"tokens": to_tensor(np.array([3, 1]))}, outputs=logits())
    tensor = (await stub.Step(step_pb2.StepRequest(chunk=chunk))).result
    plain = await step(stub, short, [3, 1], outputs=logits())

    np.testing.assert_array_equal(to_array(tensor.outputs["logits"]), to_array(plain.outputs["logits"]))


async def test_top_tokens_agree_with_the_logits(stub: Any) -> None:
    """`top_k` gives the best tokens of each step, or of the last alone."""
    session, other, third = [await open_session(stub) for _ in range(3)]
    whole = to_array((await step(stub, session, [1, 2, 3], outputs=logits())).outputs["logits"])
    best = (await step(stub, other, [1, 2, 3], outputs=step_pb2.Outputs(top_k=2))).top_tokens
    last = (await step(stub, third, [1, 2, 3], outputs=step_pb2.Outputs(top_k=2, last_only=True))).top_tokens

    order = np.argsort(-whole, axis=1)[:, :2]
    assert (best.k, list(best.tokens)) == (2, order.ravel().tolist())
    assert (last.k, list(last.tokens)) == (2, order[-1].tolist())
    assert list(last.log_probabilities) == pytest.approx(list(best.log_probabilities)[-2:], abs=1e-5)


async def test_scores_agree_with_the_logits(stub: Any) -> None:
    """Each token's log-probability is that of the step before it, over chunk boundaries too; the first has none."""
    session, other = await open_session(stub), await open_session(stub)
    tokens = [4, 5, 6, 7]
    whole = torch.tensor(to_array((await step(stub, session, tokens, outputs=logits())).outputs["logits"]))
    scores: list[float] = []
    for part in (tokens[:1], tokens[1:3], tokens[3:]):
        scores += (await step(stub, other, part, scoring=step_pb2.Scoring())).log_probabilities

    expected = [whole[i].log_softmax(-1)[token].item() for i, token in enumerate(tokens[1:])]
    assert math.isnan(scores[0])
    assert scores[1:] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "tokens"),
        ({"tokens": [20]}, "tokens[0]"),
        ({"tokens": [1, 2, -1]}, "tokens[2]"),
        ({"tokens": [1], "inputs": {"tokens": tensor_pb2.Tensor()}}, "inputs"),
        ({"tokens": [0] * 4097}, "tokens"),
        ({"tokens": [1], "outputs": step_pb2.Outputs(names=["none"])}, "outputs.names"),
        ({"tokens": [1], "outputs": step_pb2.Outputs(top_k=-1)}, "outputs.top_k"),
        ({"tokens": [1], "outputs": step_pb2.Outputs(top_k=21)}, "outputs.top_k"),
        ({"inputs": {"tokens": to_tensor(np.zeros(2, np.float32))}}, "inputs[tokens]"),
        ({"inputs": {"tokens": to_tensor(np.zeros((2, 2), np.int64))}}, "inputs[tokens]"),
        ({"inputs": {"tokens": to_tensor(np.int64(1)[None].reshape(()))}}, "inputs[tokens].shape"),
        ({"inputs": {"none": to_tensor(np.zeros(2, np.int64))}}, "inputs"),
    ],
)
async def test_malformed_chunks_are_refused(stub: Any, fields: dict[str, Any], field: str) -> None:
    """INVALID_ARGUMENT names the field, and the session stays where it was."""
    session = await open_session(stub)
    failure = await failure_of(step(stub, session, **{"tokens": [], **fields}))

    assert (failure.code, failure.field) == (INVALID, field)
    assert await position_of(stub, session) == 0


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.zeros((2, 4), np.float32), "expected [steps, 3]"),
        (np.zeros((2,), np.float32), "expected [steps, 3]"),
        (np.zeros((2, 3), np.float64), "expected float32"),
        (np.full((2, 3), np.nan, np.float32), "NaN"),
        (np.full((2, 3), np.inf, np.float32), "infinity"),
        (np.zeros((0, 3), np.float32), "at least one step"),
    ],
)
async def test_unfit_tensors_are_refused(stub: Any, array: np.ndarray, problem: str) -> None:
    """Rank, type, length and finiteness are checked against the signature."""
    session = await open_session(stub, model="frames")
    chunk = step_pb2.Chunk(session_id=session, inputs={"features": to_tensor(array)})
    failure = await failure_of(stub.Step(step_pb2.StepRequest(chunk=chunk)))

    assert failure.code is INVALID
    assert (failure.field or "").startswith("inputs")
    assert problem in failure.message


async def test_a_model_of_tensors_takes_no_tokens(stub: Any) -> None:
    """The error says what it takes, and scoring it is a failed precondition."""
    session = await open_session(stub, model="frames")
    failure = await failure_of(step(stub, session, [1]))
    chunk = step_pb2.Chunk(
        session_id=session, inputs={"features": to_tensor(np.zeros((1, 3), np.float32))}, scoring=step_pb2.Scoring()
    )
    scoring = await failure_of(stub.Step(step_pb2.StepRequest(chunk=chunk)))

    assert (failure.code, failure.field) == (INVALID, "tokens")
    assert "features" in failure.message
    assert scoring.code is grpc.StatusCode.FAILED_PRECONDITION


async def test_unknown_sessions_are_not_found(stub: Any) -> None:
    """Never a fresh session under an unknown id."""
    for session in ("", "unknown"):
        assert (await failure_of(step(stub, session, [1]))).code is grpc.StatusCode.NOT_FOUND


async def test_a_wrong_position_is_told_the_right_one(stub: Any) -> None:
    """OUT_OF_RANGE carries the session's own position, ahead or behind."""
    session = await open_session(stub)
    await step(stub, session, [1, 2], position=0)
    await step(stub, session, [3], position=2)

    for position in (0, 1, 9, -1):
        failure = await failure_of(step(stub, session, [1], position=position))
        assert (failure.code, failure.position) == (grpc.StatusCode.OUT_OF_RANGE, "3")


async def test_a_retry_gets_the_kept_answer(stub: Any) -> None:
    """The same chunk at the same position is answered again and not run again."""
    session = await open_session(stub)
    chunk = step_pb2.Chunk(session_id=session, position=0, tokens=[1, 2], outputs=logits())
    first = (await stub.Step(step_pb2.StepRequest(chunk=chunk))).result
    again = (await stub.Step(step_pb2.StepRequest(chunk=chunk))).result

    assert first == again
    assert await position_of(stub, session) == 2


async def _slow_server(start: StartServer) -> Server:
    """A server on which a chunk of 20,000 steps takes as many runs."""
    return await start(max_run_steps=1, max_chunk_steps=20_000)


async def test_a_deadline_leaves_the_session_as_it_was(start: StartServer) -> None:
    """A chunk that is not done in time has consumed nothing, and the session can be stepped again."""
    server = await _slow_server(start)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        session = await open_session(stub)
        chunk = step_pb2.Chunk(session_id=session, tokens=[1] * 20_000)
        failure = await failure_of(stub.Step(step_pb2.StepRequest(chunk=chunk), timeout=0.1))
        await until(lambda: server.engines.of_model("tiny").stats().num_waiting == 0)

        assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: server.metrics.requests["Step", "DEADLINE_EXCEEDED"] == 1)
        assert await position_of(stub, session) == 0
        assert (await step(stub, session, [1], position=0)).position == 1


async def test_cancelling_leaves_the_session_as_it_was(start: StartServer) -> None:
    """A cancelled chunk has consumed nothing; meanwhile a second one of the session is ABORTED or follows it."""
    server = await _slow_server(start)
    engine = server.engines.of_model("tiny")
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        session = await open_session(stub)
        call = stub.Step(step_pb2.StepRequest(chunk=step_pb2.Chunk(session_id=session, tokens=[1] * 20_000)))
        waiting = asyncio.ensure_future(call)
        await until(lambda: engine.stats().num_waiting == 1)
        call.cancel()
        await asyncio.wait([waiting])
        await until(lambda: engine.stats().num_waiting == 0)

        assert waiting.cancelled()
        assert server.metrics.requests["Step", "CANCELLED"] == 1
        assert await position_of(stub, session) == 0
        assert (await step(stub, session, [1], position=0)).position == 1


async def test_closing_fails_what_waits(start: StartServer) -> None:
    """A chunk whose session is closed under it is NOT_FOUND."""
    server = await _slow_server(start)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        session = await open_session(stub)
        waiting = asyncio.ensure_future(failure_of(step(stub, session, [1] * 20_000)))
        await until(lambda: server.engines.of_model("tiny").stats().num_waiting == 1)
        await stub.CloseSession(session_pb2.CloseSessionRequest(session_id=session))

        assert (await waiting).code is grpc.StatusCode.NOT_FOUND


async def test_garbage_is_an_invalid_argument(channel: grpc.aio.Channel) -> None:
    """Bytes that are no request are refused in our words, not gRPC's."""
    call = channel.unary_unary("/conveyor.v1.SequenceService/Step")
    failure = await failure_of(call(b"\xff\xff\xff\xff"))

    assert (failure.code, failure.field) == (INVALID, "request")


async def test_a_giant_message_is_refused(start: StartServer) -> None:
    """RESOURCE_EXHAUSTED, and the connection goes on."""
    server = await start(max_message_bytes=10_000)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        session = await open_session(stub)
        failure = await failure_of(step(stub, session, [1] * 20_000))

        assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await step(stub, session, [1])).position == 1

"""`ModelStreamInfer` over a real connection."""

import asyncio
from typing import Any

import grpc
import numpy as np
import pytest

from conveyor.inference import inference_service_pb2_grpc, server_pb2
from conveyor.rpc.inference.stream import MAX_UNANSWERED
from conveyor.server import Server
from tests.rpc.conftest import StartServer
from tests.rpc.inference.requests import infer, logits, outputs_of, tokens
from tests.rpc.requests import failure_of, read_all, until


async def test_answers_come_in_order_whoever_is_quicker(oip: Any) -> None:
    """A long request of one sequence does not let a short one of another pass."""
    call = oip.ModelStreamInfer()
    await call.write(infer("tiny", 1, id="long", sequence_start=True, tokens=np.full((1, 2000), 3)))
    await call.write(infer("tiny", 2, id="short", sequence_start=True, tokens=tokens(1)))
    await call.write(infer("tiny", 3, id="bad", tokens=tokens(1)))
    await call.done_writing()
    responses: list[Any] = []
    await read_all(call, responses)

    assert [response.infer_response.id for response in responses] == ["long", "short", "bad"]
    assert [bool(response.error_message) for response in responses] == [False, False, True]


async def test_a_sequence_may_change_streams(oip: Any) -> None:
    """It belongs to no stream; ending one leaves it open."""
    steps = []
    for number in range(3):
        call = oip.ModelStreamInfer()
        await call.write(infer("tiny", 1, sequence_start=number == 0, tokens=tokens(number)))
        steps.append(outputs_of((await call.read()).infer_response)["logits"][0, 0])
        call.cancel()

    np.testing.assert_allclose(
        steps, await logits(oip, "tiny", 2, sequence_start=True, tokens=tokens(0, 1, 2)), rtol=0, atol=1e-5
    )


async def test_a_reader_that_lags_is_waited_for(oip: Any, server: Server) -> None:
    """Of a stream with too many unanswered requests no more is read, and all are answered in the end."""
    call = oip.ModelStreamInfer()
    num_requests = 3 * MAX_UNANSWERED

    async def write() -> None:
        for number in range(num_requests):
            await call.write(infer("frames", 1, id=str(number), sequence_start=number == 0, features=features))
        await call.done_writing()

    features = np.ones((1, 1000, 3), np.float32)
    writing = asyncio.create_task(write())
    metrics = server.metrics.of_model("frames", 1)
    await until(lambda: metrics.num_steps >= 1000 * MAX_UNANSWERED // 4)
    responses: list[Any] = []
    await read_all(call, responses)
    await writing

    assert [response.infer_response.id for response in responses] == [str(number) for number in range(num_requests)]


async def test_bytes_that_are_unanswered_are_bounded(start: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of requests and of the answers that they are to have: behind as many nothing more is read."""
    step_bytes = 8 + 20 * 4  # a token, and the logits of 20
    monkeypatch.setattr("conveyor.rpc.inference.stream.MAX_UNANSWERED_BYTES", 5_090 * step_bytes)
    server = await start(max_run_steps=1, max_chunk_steps=5_000)
    engine = server.engines.of_model("tiny")
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = inference_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer()
        await call.write(infer("tiny", 1, sequence_start=True, tokens=np.full((1, 5_000), 3)))
        for number in range(2, 8):
            await call.write(infer("tiny", number, sequence_start=True, tokens=np.full((1, 50), 3)))
        await call.done_writing()
        await until(lambda: engine.stats().num_sessions >= 3)
        most, responses = 3, list[Any]()
        while engine.get("tiny/1").position == 0:  # the first is running, and holds back the answers of the others
            most = max(most, engine.stats().num_sessions)
            await asyncio.sleep(0.001)
        await read_all(call, responses)

    assert most == 3
    assert [response.error_message for response in responses] == [""] * 7


async def test_a_stream_that_is_cancelled_leaves_nothing(oip: Any, server: Server) -> None:
    """Its requests are given up, and its sequences are where they were."""
    engine = server.engines.of_model("tiny")
    call = oip.ModelStreamInfer()
    for number in range(4):
        await call.write(infer("tiny", number + 1, sequence_start=True, tokens=np.full((1, 4000), 3)))
    await until(lambda: engine.stats().num_waiting == 4)
    call.cancel()
    await until(lambda: engine.stats().num_waiting == 0)

    await until(lambda: engine.stats().num_sessions == 0)  # they were to begin


async def test_a_draining_server_answers_what_it_has(start: StartServer) -> None:
    """Then it ends the stream with UNAVAILABLE, an idle one too, and says that it is not ready meanwhile."""
    server = await start(max_run_steps=1, max_chunk_steps=5000, drain_timeout=20)
    async with grpc.aio.insecure_channel(server.address) as channel:
        oip: Any = inference_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        call, idle = oip.ModelStreamInfer(), oip.ModelStreamInfer()
        await idle.write(infer("tiny", 2, sequence_start=True, tokens=tokens(1)))
        await idle.read()
        await call.write(infer("tiny", 1, id="last", sequence_start=True, tokens=np.full((1, 5000), 3)))
        await until(lambda: server.engines.of_model("tiny").stats().num_waiting == 1)
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        ready = await oip.ServerReady(server_pb2.ServerReadyRequest())
        refused = await failure_of(oip.ModelInfer(infer("tiny", 2, tokens=tokens(1))))
        responses: list[Any] = []
        failures = [await failure_of(read_all(call, responses)), await failure_of(idle.read())]
        await stopping

    assert not ready.ready
    assert [response.infer_response.id for response in responses] == ["last"]
    assert [failure.code for failure in (refused, *failures)] == [grpc.StatusCode.UNAVAILABLE] * 3


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b"\x0a\xff\xff\xff\xff\x0f", bytes(100)])
async def test_garbage_ends_its_call_alone(oip: Any, channel: grpc.aio.Channel, garbage: bytes) -> None:
    """INVALID_ARGUMENT for the call that it came on; others go on."""
    await oip.ModelInfer(infer("tiny", 1, sequence_start=True, tokens=tokens(1)))
    path = "/inference.GRPCInferenceService/"
    call = channel.stream_stream(path + "ModelStreamInfer")()
    await call.write(garbage)
    failures = [
        await failure_of(call.read()),
        await failure_of(channel.unary_unary(path + "ModelInfer")(garbage)),
    ]

    assert [failure.code for failure in failures] == [grpc.StatusCode.INVALID_ARGUMENT] * 2
    await oip.ModelInfer(infer("tiny", 1, tokens=tokens(1)))

"""Bidirectional streams: many sessions, failures among them, and clients that behave badly."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest

from conveyor.rpc.stream import MAX_RESPONSE_BYTES
from conveyor.server import Server
from conveyor.v1 import sequence_service_pb2_grpc, session_pb2, step_pb2
from tests.rpc.conftest import StartServer
from tests.rpc.requests import failure_of, logits, open_session, position_of, read_all, step, to_array, until

NOT_FOUND = grpc.StatusCode.NOT_FOUND.value[0]


def chunk(session: str, tokens: list[int], request_id: int = 0, **fields: Any) -> step_pb2.Chunk:
    """A chunk of tokens."""
    return step_pb2.Chunk(session_id=session, tokens=tokens, request_id=request_id, **fields)


async def send(call: Any, *chunks: step_pb2.Chunk) -> None:
    """Sends chunks in one message."""
    await call.write(step_pb2.StreamRequest(chunks=chunks))


async def results_of(call: Any, number: int) -> list[step_pb2.StepResult]:
    """Reads until so many results have come."""
    results: list[step_pb2.StepResult] = []
    while len(results) < number:
        response = await call.read()
        assert response is not grpc.aio.EOF
        results += response.results
    return results


@pytest.fixture
async def slow(start: StartServer) -> Server:
    """A server on which a chunk of 20,000 steps takes as many runs."""
    return await start(max_run_steps=1, max_chunk_steps=20_000)


@pytest.fixture
async def slow_stub(slow: Server) -> AsyncIterator[Any]:
    """Its calls."""
    async with grpc.aio.insecure_channel(slow.address) as channel:
        yield sequence_service_pb2_grpc.SequenceServiceStub(channel)


async def test_many_sessions_share_a_stream(stub: Any) -> None:
    """Each session's results are its own, in the order of its chunks, as if it were alone."""
    rng = np.random.default_rng(0)
    sessions = [await open_session(stub) for _ in range(20)]
    texts = {session: rng.integers(0, 20, 12).tolist() for session in sessions}
    call = stub.Stream()
    for position in range(0, 12, 3):
        chunks = [
            chunk(session, text[position : position + 3], position, position=position, outputs=logits())
            for session, text in texts.items()
        ]
        await send(call, *chunks)
    results = await results_of(call, 20 * 4)
    await call.done_writing()

    assert await call.read() is grpc.aio.EOF
    for session, text in texts.items():
        mine = [result for result in results if result.session_id == session]
        assert [(result.request_id, result.position) for result in mine] == [(0, 3), (3, 6), (6, 9), (9, 12)]
        alone = await step(stub, await open_session(stub), text, outputs=logits())
        together = np.concatenate([to_array(result.outputs["logits"]) for result in mine])
        np.testing.assert_allclose(together, to_array(alone.outputs["logits"]), atol=1e-5)


async def test_results_are_coalesced(stub: Any) -> None:
    """What became ready in one batch comes in one message."""
    sessions = [await open_session(stub) for _ in range(8)]
    call = stub.Stream()
    await send(call, *(chunk(session, [1]) for session in sessions))

    assert len((await call.read()).results) == 8


async def test_a_failure_is_one_chunks_alone(stub: Any) -> None:
    """Each kind of failure is a result with its code and detail, and the other sessions go on."""
    good, behind = await open_session(stub, "good"), await open_session(stub, "behind")
    await step(stub, behind, [1, 1])
    await step(stub, behind, [1])
    call = stub.Stream()
    await send(
        call,
        chunk("unknown", [1], 1),
        chunk(good, [99], 2),
        chunk(behind, [1], 3, position=7),
        chunk(good, [], 4),
        step_pb2.Chunk(session_id=good, request_id=5, inputs={"tokens": {"data_type": 3, "shape": [5], "data": b""}}),
        chunk(good, [1], 6),
    )
    results = {result.request_id: result for result in await results_of(call, 6)}

    codes = {request_id: result.error.code for request_id, result in results.items()}
    assert codes == {1: 5, 2: 3, 3: 11, 4: 3, 5: 3, 6: 0}
    assert results[2].error.field == "tokens[0]"
    assert results[3].error.position == 3
    assert results[5].error.field == "inputs[tokens].data"
    assert results[5].session_id == "good"
    assert results[6].position == 1
    await send(call, chunk(good, [1], 7))
    assert (await results_of(call, 1))[0].position == 2


async def test_chunks_behind_a_failed_one_fail(stub: Any) -> None:
    """Of chunks sent ahead, those whose positions count on a refused one are OUT_OF_RANGE."""
    session = await open_session(stub)
    call = stub.Stream()
    await send(call, chunk(session, [99], 1, position=0), chunk(session, [1], 2, position=1))
    results = {result.request_id: result for result in await results_of(call, 2)}

    assert results[1].error.code == 3
    assert results[2].error.code == 11
    assert results[2].error.position == 0


async def test_a_retry_on_another_stream_gets_the_kept_answer(stub: Any) -> None:
    """A client whose stream broke asks again on a new one."""
    session = await open_session(stub)
    first, second = stub.Stream(), stub.Stream()
    request = chunk(session, [1, 2], 9, position=0, outputs=logits())
    await send(first, request)
    answer = (await results_of(first, 1))[0]
    first.cancel()
    await send(second, request)

    assert (await results_of(second, 1))[0] == answer
    assert await position_of(stub, session) == 2


async def test_half_closing_lets_the_results_arrive(slow_stub: Any) -> None:
    """The call ends with OK after the last result."""
    session = await open_session(slow_stub)
    call = slow_stub.Stream()
    await send(call, *(chunk(session, [1] * 500, number) for number in range(3)))
    await call.done_writing()
    results = await results_of(call, 3)

    assert [result.position for result in results] == [500, 1000, 1500]
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_a_stream_may_be_silent(stub: Any) -> None:
    """One that is opened and half-closed without a chunk ends with OK."""
    call = stub.Stream()
    await call.done_writing()

    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_a_broken_stream_drops_its_chunks(slow: Server, slow_stub: Any) -> None:
    """A client that is gone leaves its sessions as they were, open, and for others to step."""
    session, other = await open_session(slow_stub), await open_session(slow_stub)
    engine = slow.engines.of_model("tiny")
    call = slow_stub.Stream()
    await send(call, chunk(session, [1] * 16_000), chunk(session, [1]))
    await until(lambda: engine.stats().num_waiting == 2)
    assert (await step(slow_stub, other, [1])).position == 1
    call.cancel()
    await until(lambda: engine.stats().num_waiting == 0)

    assert (await step(slow_stub, session, [1], position=0)).position == 1


async def test_a_lost_connection_drops_its_chunks(slow: Server, slow_stub: Any) -> None:
    """The same when the whole channel goes away without a word."""
    session = await open_session(slow_stub)
    engine = slow.engines.of_model("tiny")
    async with grpc.aio.insecure_channel(slow.address) as channel:
        call = sequence_service_pb2_grpc.SequenceServiceStub(channel).Stream()
        await send(call, chunk(session, [1] * 20_000))
        await until(lambda: engine.stats().num_waiting == 1)
    await until(lambda: engine.stats().num_waiting == 0)

    assert (await step(slow_stub, session, [1], position=0)).position == 1


async def test_a_stream_hears_of_its_sessions_end(stub: Any) -> None:
    """A session that is closed elsewhere is told to the stream that stepped it last."""
    session = await open_session(stub)
    call = stub.Stream()
    await send(call, chunk(session, [1, 2]))
    await results_of(call, 1)
    await stub.CloseSession(session_pb2.CloseSessionRequest(session_id=session))
    ended = (await call.read()).ended

    assert [(end.session_id, end.reason, end.position) for end in ended] == [(session, 1, 2)]


async def test_a_slow_reader_is_not_read_from(start: StartServer) -> None:
    """Once so many steps are unanswered, the server takes no more; when the client reads, all of it arrives."""
    server = await start(max_stream_steps=64)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        session = await open_session(stub)
        call = stub.Stream()

        async def write() -> None:
            for number in range(3000):
                await send(call, chunk(session, [1] * 64, number, outputs=logits()))
            await call.done_writing()

        writing = asyncio.create_task(write())
        stalled_at = await _stalled(stub, session)
        results = await results_of(call, 3000)
        await writing

        assert stalled_at < 3000 * 64
        assert [result.request_id for result in results] == list(range(3000))
        assert await call.read() is grpc.aio.EOF


async def _stalled(stub: Any, session: str) -> int:
    """The position at which a session has stopped advancing."""
    last = -1
    while (position := await position_of(stub, session)) != last:
        last = position
        await asyncio.sleep(0.2)
    return position


async def test_large_answers_are_spread_over_messages(start: StartServer) -> None:
    """No message is much larger than clients take by default, whatever came together."""
    server = await start(max_run_steps=4096)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        sessions = [await open_session(stub) for _ in range(20)]
        call = stub.Stream()
        await send(call, *(chunk(session, [1] * 4096, outputs=logits()) for session in sessions))
        sizes, number = [], 0
        while number < 20:
            response = await call.read()
            number += len(response.results)
            sizes.append(response.ByteSize())

        assert sum(sizes) > 4 * MAX_RESPONSE_BYTES
        assert max(sizes) < 2 * MAX_RESPONSE_BYTES


async def test_a_flood_of_bad_chunks_is_answered_in_turns(start: StartServer) -> None:
    """Refusals too fill messages of bounded size, and no more is read than may be unanswered; others are served."""
    server = await start(max_stream_steps=2000)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        session = await open_session(stub)
        call = stub.Stream()
        await send(call, *(chunk(f"{number:0100}", [1], number) for number in range(30_000)))
        assert (await step(stub, session, [1])).position == 1
        responses = []
        while sum(len(response.results) for response in responses) < 30_000:
            responses.append(await call.read())

    assert [result.request_id for response in responses for result in response.results] == list(range(30_000))
    assert all(result.error.code == NOT_FOUND for response in responses for result in response.results)
    assert max(response.ByteSize() for response in responses) < 2 * MAX_RESPONSE_BYTES
    assert max(len(response.results) for response in responses) <= 2000


async def test_a_single_step_leaves_the_end_to_the_stream(stub: Any) -> None:
    """A unary call on a session between two chunks of a stream does not keep the stream from hearing of its end."""
    session = await open_session(stub)
    call = stub.Stream()
    await send(call, chunk(session, [1]))
    await results_of(call, 1)
    await step(stub, session, [1])
    await stub.CloseSession(session_pb2.CloseSessionRequest(session_id=session))

    (end,) = (await call.read()).ended
    assert (end.session_id, end.position) == (session, 2)
    call.cancel()


async def test_garbage_ends_its_stream_alone(channel: grpc.aio.Channel, stub: Any) -> None:
    """Bytes that are no request end the stream with INVALID_ARGUMENT, after the results that were ready."""
    session = await open_session(stub)
    call = channel.stream_stream("/conveyor.v1.SequenceService/Stream")()
    await call.write(step_pb2.StreamRequest(chunks=[chunk(session, [1])]).SerializeToString())
    answer = step_pb2.StreamResponse.FromString(await call.read())
    await call.write(b"\xff\xff\xff\xff")
    failure = await failure_of(call.read())

    assert answer.results[0].position == 1
    assert (failure.code, failure.field) == (grpc.StatusCode.INVALID_ARGUMENT, "request")
    assert (await step(stub, session, [1])).position == 2


async def test_a_giant_message_ends_its_stream_alone(start: StartServer) -> None:
    """RESOURCE_EXHAUSTED for the stream that sent it; the connection's other calls go on."""
    server = await start(max_message_bytes=10_000)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        session = await open_session(stub)
        call = stub.Stream()
        await send(call, chunk(session, [1] * 20_000))
        failure = await failure_of(read_all(call, []))

        assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await step(stub, session, [1], position=0)).position == 1

"""Sequences over their lives, and the sessions that they are."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from conveyor.inference import inference_service_pb2_grpc, statistics_pb2
from conveyor.server import Server, start_server
from conveyor.settings import Settings
from conveyor.store.sqlite import SqliteStore
from conveyor.v1 import sequence_service_pb2_grpc, session_pb2
from tests.rpc.conftest import StartServer
from tests.rpc.inference.requests import infer, logits, outputs_of, tokens
from tests.rpc.requests import failure_of, open_session, position_of, read_all, step, until

StartStored = Callable[[str], Awaitable[Server]]

START = "must specify the START flag on the first request of the sequence"


async def test_a_sequence_is_a_session(oip: Any, stub: Any) -> None:
    """The native API finds it, steps it and closes it; then it has to be begun again."""
    whole = await logits(oip, "tiny", "whole", sequence_start=True, tokens=tokens(1, 2, 3))
    await oip.ModelInfer(infer("tiny", 5, sequence_start=True, tokens=tokens(1)))
    assert await position_of(stub, "tiny/5") == 1
    await step(stub, "tiny/5", [2])
    last = await logits(oip, "tiny", 5, tokens=tokens(3))
    await stub.CloseSession(session_pb2.CloseSessionRequest(session_id="tiny/5"))
    failure = await failure_of(oip.ModelInfer(infer("tiny", 5, tokens=tokens(4))))

    np.testing.assert_allclose(last[0], whole[2], rtol=0, atol=1e-5)
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.field == "parameters[sequence_start]"
    assert START in failure.message


async def test_a_session_is_a_sequence(oip: Any, stub: Any) -> None:
    """One that the native API opened under such a name is gone on with."""
    await open_session(stub, "tiny/mine")
    await step(stub, "tiny/mine", [1, 2])

    last = await logits(oip, "tiny", "mine", tokens=tokens(3))

    whole = await logits(oip, "tiny", 1, sequence_start=True, tokens=tokens(1, 2, 3))
    np.testing.assert_allclose(last[0], whole[2], rtol=0, atol=1e-5)


async def test_the_same_id_is_another_sequence_of_another_model(oip: Any) -> None:
    """Ids belong to their model."""
    await oip.ModelInfer(infer("tiny", 1, sequence_start=True, tokens=tokens(1)))

    features = np.ones((1, 1, 3), np.float32)
    assert START in (await failure_of(oip.ModelInfer(infer("frames", 1, features=features)))).message
    await oip.ModelInfer(infer("frames", 1, sequence_start=True, features=features))
    await oip.ModelInfer(infer("tiny", 1, tokens=tokens(1)))


async def test_a_start_begins_anew(oip: Any, stub: Any) -> None:
    """The sequence that was open under the id is forgotten."""
    first = await logits(oip, "tiny", 1, sequence_start=True, tokens=tokens(1, 2))
    again = await logits(oip, "tiny", 1, sequence_start=True, tokens=tokens(1, 2))

    np.testing.assert_array_equal(first, again)
    assert await position_of(stub, "tiny/1") == 2


async def test_a_sequence_of_one_request(oip: Any, server: Server) -> None:
    """Begun and ended by the same request, it leaves nothing."""
    await oip.ModelInfer(infer("tiny", 1, sequence_start=True, sequence_end=True, tokens=tokens(1)))

    assert server.engines.of_model("tiny").stats().num_sessions == 0


async def test_a_start_that_fails_begins_nothing(oip: Any) -> None:
    """What follows it must not pass for the first step."""
    await failure_of(oip.ModelInfer(infer("tiny", 1, sequence_start=True, tokens=tokens(99))))

    assert START in (await failure_of(oip.ModelInfer(infer("tiny", 1, tokens=tokens(1))))).message


@pytest.mark.parametrize("wrong", [{"tokens": tokens(99)}, {"tokens": np.ones((1, 1), np.float32)}, {}])
async def test_a_start_that_fails_ends_what_was_open(oip: Any, wrong: dict[str, Any]) -> None:
    """Whatever it was refused for: what was sent behind it must not go on with the sequence that was there before."""
    await oip.ModelInfer(infer("tiny", 1, sequence_start=True, tokens=tokens(1)))
    await failure_of(oip.ModelInfer(infer("tiny", 1, sequence_start=True, **wrong)))

    assert START in (await failure_of(oip.ModelInfer(infer("tiny", 1, tokens=tokens(2))))).message


async def test_an_end_that_fails_ends_nothing(oip: Any) -> None:
    """It can be sent again, mended."""
    await oip.ModelInfer(infer("tiny", 1, sequence_start=True, tokens=tokens(1)))
    await failure_of(oip.ModelInfer(infer("tiny", 1, sequence_end=True, tokens=tokens(99))))
    last = await logits(oip, "tiny", 1, sequence_end=True, tokens=tokens(2))

    whole = await logits(oip, "tiny", 2, sequence_start=True, tokens=tokens(1, 2))
    np.testing.assert_allclose(last[0], whole[1], rtol=0, atol=1e-5)


async def test_requests_in_flight_take_turns(oip: Any) -> None:
    """Begun, stepped, ended and begun again without waiting: each happens in its turn."""
    call = oip.ModelStreamInfer()
    await call.write(infer("tiny", 1, sequence_start=True, tokens=tokens(1)))
    await call.write(infer("tiny", 1, sequence_end=True, tokens=tokens(2)))
    await call.write(infer("tiny", 1, tokens=tokens(3)))
    await call.write(infer("tiny", 1, sequence_start=True, tokens=tokens(1, 2)))
    first, second, ended, both = [await call.read() for _ in range(4)]

    assert START in ended.error_message
    steps = [outputs_of(response.infer_response)["logits"] for response in (first, second)]
    whole = outputs_of(both.infer_response)["logits"]
    np.testing.assert_allclose(np.concatenate(steps, axis=1), whole, rtol=0, atol=1e-5)


async def test_an_idle_sequence_ends(start: StartServer) -> None:
    """It is told as Triton tells it."""
    server = await start(idle_timeout=0.05)
    async with grpc.aio.insecure_channel(server.address) as channel:
        oip = inference_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        await oip.ModelInfer(infer("tiny", 1, sequence_start=True, tokens=tokens(1)))
        await until(lambda: server.engines.of_model("tiny").stats().num_sessions == 0)
        failure = await failure_of(oip.ModelInfer(infer("tiny", 1, tokens=tokens(1))))

    assert START in failure.message


async def test_a_sequence_that_a_stop_ends_was_begun(start: StartServer) -> None:
    """Its request is told that the server drains, not that there was no START: it may go on at another server."""
    server = await start(max_run_steps=1, max_chunk_steps=20_000)
    async with grpc.aio.insecure_channel(server.address) as channel:
        oip = inference_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        await oip.ModelInfer(infer("tiny", 1, sequence_start=True, tokens=tokens(1)))
        call = oip.ModelInfer(infer("tiny", 1, tokens=np.full((1, 20_000), 3)))
        await until(lambda: server.engines.of_model("tiny").stats().num_waiting == 1)
        await server.engines.of_model("tiny").drain(0.0)
        failure = await failure_of(call)

    assert (failure.code, failure.message) == (grpc.StatusCode.UNAVAILABLE, "the server is draining")


async def test_too_many_sequences_are_refused(start: StartServer) -> None:
    """RESOURCE_EXHAUSTED, and those that are open go on."""
    server = await start(max_sessions=1)
    async with grpc.aio.insecure_channel(server.address) as channel:
        oip = inference_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        await oip.ModelInfer(infer("tiny", 1, sequence_start=True, tokens=tokens(1)))
        failure = await failure_of(oip.ModelInfer(infer("tiny", 2, sequence_start=True, tokens=tokens(1))))
        await oip.ModelInfer(infer("tiny", 1, tokens=tokens(1)))

    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_two_streams_of_one_sequence_take_turns(oip: Any) -> None:
    """Each request of either is a whole step: none is lost, none runs on the state of another."""
    calls = [oip.ModelStreamInfer() for _ in range(2)]
    await oip.ModelInfer(infer("tiny", 1, sequence_start=True, tokens=tokens(5)))
    await asyncio.gather(*(write_all(call, [infer("tiny", 1, tokens=tokens(5))] * 20) for call in calls))
    responses: list[Any] = []
    await asyncio.gather(*(read_all(call, responses) for call in calls))
    steps = [outputs_of(response.infer_response)["logits"][0, 0] for response in responses]

    whole = await logits(oip, "tiny", 2, sequence_start=True, tokens=np.full((1, 41), 5))
    in_order = sorted(steps, key=lambda step: float(np.abs(whole - step).max(axis=1).argmin()))
    np.testing.assert_allclose(in_order, whole[1:], rtol=0, atol=1e-5)


async def write_all(call: Any, requests: list[Any]) -> None:
    for request in requests:
        await call.write(request)
    await call.done_writing()


@pytest.mark.parametrize("gives_up", ["timeout", "cancel"])
async def test_what_was_given_up_did_not_happen(start: StartServer, gives_up: str) -> None:
    """A timeout, or a client that goes away, leaves the sequence as it was."""
    server = await start(max_run_steps=1, max_chunk_steps=20_000)
    async with grpc.aio.insecure_channel(server.address) as channel:
        oip = inference_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        await oip.ModelInfer(infer("tiny", 1, sequence_start=True, tokens=tokens(1)))
        options = {"timeout": 1000} if gives_up == "timeout" else {}
        call = oip.ModelInfer(infer("tiny", 1, tokens=np.full((1, 20_000), 3), **options))
        if gives_up == "cancel":
            await until(lambda: server.engines.of_model("tiny").stats().num_waiting == 1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        else:
            failure = await failure_of(call)
            assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
        (stats,) = (await oip.ModelStatistics(statistics_pb2.ModelStatisticsRequest(name="tiny"))).model_stats
        assert (stats.inference_stats.success.count, stats.inference_stats.fail.count) == (1, 1)
        last = await logits(oip, "tiny", 1, tokens=tokens(2))
        whole = await logits(oip, "tiny", 2, sequence_start=True, tokens=tokens(1, 2))

    np.testing.assert_allclose(last[0], whole[1], rtol=0, atol=1e-5)


@pytest.fixture
def stored(models: Path, tmp_path: Path) -> StartStored:
    """Starts servers of this durability on one store, one after the other; the test stops them."""
    fixed = {"models": models, "port": 0, "metrics_port": 0, "num_threads": 1, "num_slots": 8, "max_batch": 8}
    return lambda durability: start_server(
        Settings(**fixed, store="sqlite", state_dir=tmp_path, durability=durability, drain_timeout=5, trial_seconds=0)
    )


@asynccontextmanager
async def stubs(server: Server) -> AsyncIterator[tuple[Any, Any]]:
    """The calls of both faces of a server."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        oip: Any = inference_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        yield oip, sequence_service_pb2_grpc.SequenceServiceStub(channel)


@pytest.mark.parametrize(("durability", "end"), [("sync", "kill"), ("async", "stop"), ("none", "stop")])
async def test_a_sequence_outlives_its_server(stored: StartStored, durability: str, end: str) -> None:
    """One that stops in order loses none; one that is killed none that is stored with every answer."""
    server = await stored(durability)
    async with stubs(server) as (oip, _):
        await oip.ModelInfer(infer("tiny", 1, sequence_start=True, tokens=tokens(1)))
        await oip.ModelInfer(infer("stateless", x=np.ones((2, 3), np.float32)))
    await getattr(server, end)()
    async with await stored(durability) as server, stubs(server) as (oip, _):
        last = await logits(oip, "tiny", 1, sequence_end=True, tokens=tokens(2))
        whole = await logits(oip, "tiny", 2, sequence_start=True, tokens=tokens(1, 2))
        ended = await failure_of(oip.ModelInfer(infer("tiny", 1, tokens=tokens(3))))

    np.testing.assert_allclose(last[0], whole[1], rtol=0, atol=1e-5)
    assert START in ended.message


async def test_a_killed_server_gives_no_sequence_back_that_is_behind(stored: StartStored) -> None:
    """Neither its own, nor a session whose latest steps may not have been stored: they have to be begun again."""
    server = await stored("async")
    async with stubs(server) as (oip, stub):
        await oip.ModelInfer(infer("tiny", 1, sequence_start=True, tokens=tokens(1)))
        await open_session(stub, "tiny/2")
        await step(stub, "tiny/2", [1])
    await server.kill()
    async with await stored("async") as server, stubs(server) as (oip, stub):
        failures = [await failure_of(oip.ModelInfer(infer("tiny", number, tokens=tokens(2)))) for number in (1, 2)]
        await oip.ModelInfer(infer("tiny", 2, sequence_start=True, tokens=tokens(1, 2, 3)))
        assert await position_of(stub, "tiny/2") == 3

    assert all(START in failure.message for failure in failures)


async def test_a_stored_sequence_may_change_servers(stored: StartStored) -> None:
    """There and back, and begun anew at the other: a server that has it no more says so, and answers nothing wrong."""
    async with (
        await stored("sync") as first,
        await stored("sync") as second,
        stubs(first) as (one, _),
        stubs(second) as (other, _),
    ):
        await one.ModelInfer(infer("tiny", 1, sequence_start=True, tokens=tokens(1)))
        await other.ModelInfer(infer("tiny", 1, tokens=tokens(2)))
        moved = await failure_of(one.ModelInfer(infer("tiny", 1, tokens=tokens(3))))
        last = await logits(one, "tiny", 1, tokens=tokens(3))
        await other.ModelInfer(infer("tiny", 1, sequence_start=True, tokens=tokens(4)))
        renewed = await failure_of(one.ModelInfer(infer("tiny", 1, tokens=tokens(5))))
        again = await logits(one, "tiny", 1, tokens=tokens(5))
        wholes = [
            await logits(one, "tiny", "whole", sequence_start=True, tokens=tokens(*seen))
            for seen in ((1, 2, 3), (4, 5))
        ]

    assert [failure.code for failure in (moved, renewed)] == [grpc.StatusCode.UNAVAILABLE] * 2
    np.testing.assert_allclose(last[0], wholes[0][2], rtol=0, atol=1e-5)
    np.testing.assert_allclose(again[0], wholes[1][1], rtol=0, atol=1e-5)


async def test_what_was_taken_up_is_out_of_the_store(stored: StartStored, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is answered: a server that is killed after that must not give it back behind the answer."""
    server = await stored("none")
    async with stubs(server) as (oip, _):
        await oip.ModelInfer(infer("tiny", 1, sequence_start=True, tokens=tokens(1)))
    await server.stop()
    is_asked, may_close, close = asyncio.Event(), asyncio.Event(), SqliteStore.close

    async def close_later(store: SqliteStore, sessions: Any) -> list[bool]:
        is_asked.set()
        await may_close.wait()
        return await close(store, sessions)

    monkeypatch.setattr(SqliteStore, "close", close_later)
    async with await stored("none") as server, stubs(server) as (oip, _):
        answering = asyncio.ensure_future(oip.ModelInfer(infer("tiny", 1, tokens=tokens(2))))
        await is_asked.wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(answering), 0.2)
        may_close.set()
        await answering


async def test_a_step_that_is_not_stored_ends_its_sequence(stored: StartStored, tmp_path: Path) -> None:
    """It was taken and not answered, so the client cannot know where it is."""
    async with await stored("sync") as server, stubs(server) as (oip, _):
        await oip.ModelInfer(infer("tiny", 1, sequence_start=True, tokens=tokens(1)))
        with sqlite3.connect(tmp_path / "sessions.db") as other:
            other.execute("DROP TABLE sessions")
        failure = await failure_of(oip.ModelInfer(infer("tiny", 1, tokens=tokens(2))))
        again = await failure_of(oip.ModelInfer(infer("tiny", 1, tokens=tokens(2))))

    assert failure.code is grpc.StatusCode.UNAVAILABLE
    assert START in again.message

"""Health as probes and proxies ask for it."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from conveyor.rpc.health import LIVENESS, STORE
from conveyor.server import Server
from conveyor.v1 import generate_pb2, sequence_service_pb2_grpc
from tests.rpc.conftest import StartServer
from tests.rpc.requests import failure_of, open_session, until

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
NAMES = ["", "conveyor.v1.SequenceService", "tiny", "frames"]


async def check(channel: grpc.aio.Channel, name: str) -> int:
    """The status of one name."""
    request = health_pb2.HealthCheckRequest(service=name)
    return (await health_pb2_grpc.HealthStub(channel).Check(request)).status


@pytest.mark.parametrize("name", [*NAMES, LIVENESS, STORE])
async def test_all_is_serving(channel: grpc.aio.Channel, name: str) -> None:
    """The server, its service, each model and the store, be there none, are once a server has started."""
    assert await check(channel, name) == SERVING


async def test_unknown_names_are_not_found(channel: grpc.aio.Channel) -> None:
    """A model that is not loaded is NOT_FOUND."""
    request = health_pb2.HealthCheckRequest(service="none")
    failure = await failure_of(health_pb2_grpc.HealthStub(channel).Check(request))

    assert failure.code is grpc.StatusCode.NOT_FOUND


async def test_draining_is_watched(server: Server, channel: grpc.aio.Channel, stub: Any) -> None:
    """While accepted work finishes all but the liveness is NOT_SERVING, and a watch is told."""
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="tiny"))
    assert (await watch.read()).status == SERVING

    generation = stub.Generate(
        generate_pb2.GenerateRequest(session_id=await open_session(stub), tokens=[1], max_tokens=1_000_000)
    )
    await generation.read()
    draining = asyncio.create_task(server.drain())
    assert (await watch.read()).status == NOT_SERVING
    assert [await check(channel, name) for name in NAMES] == [NOT_SERVING] * len(NAMES)
    assert await check(channel, LIVENESS) == SERVING
    generation.cancel()
    await draining
    await until(lambda: server.engines.of_model("tiny").stats().num_waiting == 0)


async def test_a_lost_store_is_told_of_and_is_no_reason_to_leave(start: StartServer, tmp_path: Path) -> None:
    """While the store does not answer its own name alone is NOT_SERVING, and it turns back when the store answers."""
    server, folder = await start(store="sqlite", state_dir=tmp_path / "state"), tmp_path / "state"
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=STORE))
        assert (await watch.read()).status == SERVING

        shutil.rmtree(folder)
        folder.touch()  # in its place, so that it cannot be made anew
        assert (await failure_of(open_session(stub))).code is grpc.StatusCode.UNAVAILABLE
        assert (await watch.read()).status == NOT_SERVING
        assert [await check(channel, name) for name in [*NAMES, LIVENESS]] == [SERVING] * (len(NAMES) + 1)

        folder.unlink()
        await open_session(stub)
        assert (await watch.read()).status == SERVING

"""What Prometheus scrapes from a server at work."""

import asyncio
import urllib.request
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from conveyor.server import Server, start_server
from conveyor.settings import Settings
from conveyor.v1 import generate_pb2, sequence_service_pb2_grpc, session_pb2
from tests.models import make_model, save_model
from tests.rpc.requests import failure_of, open_session, step

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(server: Server) -> tuple[Samples, list[str]]:
    """All samples by name and labels, and the names of the metric families."""

    def fetch() -> str:
        with urllib.request.urlopen(f"http://{server.metrics_address}/metrics") as response:
            return response.read().decode()

    families = list(text_string_to_metric_families(await asyncio.to_thread(fetch)))
    samples = {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}
    return samples, [family.name for family in families]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a server with too few slots for its six sessions."""
    path = save_model(tmp_path / "tiny" / "2", make_model()[0]).parents[2]
    return Settings(
        models=path,
        port=0,
        metrics_port=0,
        store="none",
        num_threads=1,
        num_slots=2,
        max_batch=1,
        max_sessions=6,
        drain_timeout=0,
    )


async def test_a_servers_work_is_counted(settings: Settings) -> None:
    """Sessions, steps, tokens, batches, spills, refusals and times are those of what was done."""
    async with (
        await start_server(settings) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        sessions = [await open_session(stub) for _ in range(6)]
        await failure_of(open_session(stub))
        for session in sessions:
            await step(stub, session, [1, 2, 3])
        request = generate_pb2.GenerateRequest(session_id=sessions[0], max_tokens=4, tokens=[1])
        assert [response async for response in stub.Generate(request)]
        samples, names = await scrape(server)

    def value(name: str, **labels: str) -> float:
        return samples[f"conveyor_{name}", frozenset({"model": "tiny", "version": "2", **labels}.items())]

    assert value("sessions") == value("sessions_opened_total") == 6
    assert value("resident_sessions") + value("spilled_sessions") == 6
    assert value("arena_slots") == 2
    assert value("arena_bytes") > 0
    assert value("spilled_bytes") == value("spilled_sessions") * 2 * 16 * 4 > 0
    assert value("spills_total") - value("restores_total") == value("spilled_sessions")
    assert value("refused_work_total", reason="sessions") == 1
    # The last token waits for the session's next request.
    assert value("steps_total") == 18 + 1 + 3
    assert value("generated_tokens_total") == 4
    assert value("batch_sessions_count") == value("run_seconds_count")
    assert value("queue_seconds_count") == 7
    assert value("first_token_seconds_count") == 1
    assert value("inter_token_seconds_count") == 3
    assert value("model_load_seconds") > 0
    assert value("waiting_chunks") == 0
    assert samples["conveyor_requests_total", frozenset({("method", "Step"), ("code", "OK")})] == 6
    assert (
        samples["conveyor_requests_total", frozenset({("method", "OpenSession"), ("code", "RESOURCE_EXHAUSTED")})] == 1
    )
    assert len(names) == len(set(names))
    assert all(name.startswith(("conveyor_", "process_")) for name in names)
    assert not any("session" in label for _, labels in samples for label, _ in labels)


async def test_ends_are_counted_by_reason(settings: Settings) -> None:
    """Closed by a client, or drained."""
    async with await start_server(settings) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = sequence_service_pb2_grpc.SequenceServiceStub(channel)
            await stub.CloseSession(session_pb2.CloseSessionRequest(session_id=await open_session(stub)))
            await open_session(stub)
        await server.drain()
        samples, _ = await scrape(server)

    labels = {"model": "tiny", "version": "2"}
    for reason in ("closed", "drained"):
        assert samples["conveyor_sessions_ended_total", frozenset({**labels, "reason": reason}.items())] == 1


async def test_two_servers_count_apart(settings: Settings) -> None:
    """Nothing is global: each server of a process has its own numbers."""
    async with await start_server(settings) as one, await start_server(settings) as other:
        async with grpc.aio.insecure_channel(one.address) as channel:
            await open_session(sequence_service_pb2_grpc.SequenceServiceStub(channel))
        counts = [
            samples["conveyor_sessions", frozenset({("model", "tiny"), ("version", "2")})]
            for samples, _ in [await scrape(one), await scrape(other)]
        ]

    assert counts == [1, 0]

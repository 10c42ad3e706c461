"""The prefix cache as a client and an operator see it."""

from typing import Any

import grpc

from conveyor.engine.prefixes import MIN_TOKENS
from conveyor.server import Server
from conveyor.v1 import generate_pb2, sequence_service_pb2_grpc
from tests.rpc.conftest import StartServer
from tests.rpc.requests import open_session, position_of
from tests.telemetry.test_endpoint import scrape

PROMPT = [token % 7 for token in range(MIN_TOKENS + 14)]


async def generate(stub: Any, session: str, prompt: list[int]) -> list[int]:
    """Draws four tokens."""
    request = generate_pb2.GenerateRequest(session_id=session, tokens=prompt, max_tokens=4, seed=5)
    return [token async for response in stub.Generate(request) for token in response.tokens]


async def metrics_of(server: Server) -> dict[str, float]:
    """The model's samples by their short names."""
    labels = {("model", "tiny"), ("version", "1")}
    samples, _ = await scrape(server)
    return {name.removeprefix("conveyor_"): value for (name, own), value in samples.items() if own == labels}


async def test_a_known_prompt_is_not_run_again(server: Server, stub: Any) -> None:
    """A prompt that another session has sent gives the same text for one step; the metrics tell of it."""
    first = await generate(stub, await open_session(stub), PROMPT)
    cold = await metrics_of(server)
    session = await open_session(stub)
    second = await generate(stub, session, PROMPT)
    warm = await metrics_of(server)

    assert first == second
    assert await position_of(stub, session) == len(PROMPT) + 4
    assert (cold["prefix_lookups_total"], cold["prefix_hits_total"], cold["prefix_tokens_total"]) == (1, 0, 0)
    assert (warm["prefix_lookups_total"], warm["prefix_hits_total"]) == (2, 1)
    assert warm["prefix_tokens_total"] == len(PROMPT) - 1
    assert cold["steps_total"] == len(PROMPT) + 3
    assert warm["steps_total"] == cold["steps_total"] + 1 + 3
    assert (warm["generated_tokens_total"], warm["queue_seconds_count"]) == (8, 2)
    assert warm["prefix_cache_bytes"] == cold["prefix_cache_bytes"] > 0


async def test_it_can_be_turned_off(start: StartServer) -> None:
    """With no bytes to keep anything in, nothing is sought."""
    server = await start(prefix_cache_bytes=0)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        texts = [await generate(stub, await open_session(stub), PROMPT) for _ in range(2)]
        metrics = await metrics_of(server)

    assert texts[0] == texts[1]
    assert (metrics["prefix_lookups_total"], metrics["prefix_cache_bytes"]) == (0, 0)
    assert metrics["steps_total"] == 2 * (len(PROMPT) + 3)

"""How long clients wait when their server is killed, and started again at once on the same port and store."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from bench.model import VOCABULARY
from bench.server import Server
from conveyor.client.client import Client
from conveyor.client.session import Session

NUM_STEPS = 100  # of each session before: some of an ASYNC session's are in no checkpoint


@dataclass(frozen=True, slots=True)
class Outage:
    """Seconds from the signal on: until the new process listens, and until the first and the last answer."""

    ready: float
    first: float
    last: float


async def measure_outage(model: Path, state: Path, durability: str, num_sessions: int) -> Outage:
    """Kills a server whose clients each have a step in flight, or about to leave, and waits for their answers."""
    server = await asyncio.to_thread(_start, model, state, "0")
    try:
        async with Client(server.address) as client:
            sessions = [await client.open(durability=durability) for _ in range(num_sessions)]
            await asyncio.gather(*(_walk(session) for session in sessions))
            begun = perf_counter()
            server.kill()
            steps = [asyncio.create_task(_time_step(session)) for session in sessions]
            server = await asyncio.to_thread(_start, model, state, server.address.rpartition(":")[2])
            ready = perf_counter()
            answered = await asyncio.gather(*steps)
    finally:
        server.kill()
    return Outage(ready - begun, min(answered) - begun, max(answered) - begun)


def _start(model: Path, state: Path, port: str) -> Server:
    return Server.conveyor(model, "--store", "sqlite", "--state-dir", str(state), "--port", port)


async def _walk(session: Session) -> None:
    for _ in range(NUM_STEPS):
        await session.step([session.position % VOCABULARY], top_k=1)


async def _time_step(session: Session) -> float:
    await session.step([session.position % VOCABULARY], top_k=1)
    return perf_counter()

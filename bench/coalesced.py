"""Many sessions of one SDK client, which puts their chunks into common messages."""

import asyncio
from time import perf_counter

from bench.measurement import Measurement, Watch
from bench.model import VOCABULARY
from conveyor.client.client import Client
from conveyor.client.session import Session


class Coalesced:
    """A client with one step of each session in flight. `durability` is that of its sessions."""

    def __init__(self, address: str, durability: str = "none") -> None:
        self._address = address
        self._durability = durability
        self._sessions: list[Session] = []

    async def start(self) -> None:
        """Connects."""
        self._client = Client(self._address)

    async def measure(self, count: int, seconds: float) -> Measurement:
        """Steps `count` sessions as fast as answers come."""
        while len(self._sessions) < count:
            self._sessions.append(await self._client.open(durability=self._durability))
        watch = Watch(seconds)
        await asyncio.gather(*(self._step(session, watch) for session in self._sessions[:count]))
        return watch.measurement()

    async def stop(self) -> None:
        """Disconnects."""
        await self._client.close()

    async def _step(self, session: Session, watch: Watch) -> None:
        is_running = True
        while is_running:
            begun = perf_counter()
            await session.step([session.position % VOCABULARY], top_k=1)
            is_running = watch.lap(begun)

"""A process of its own for each part, so that server and clients share the cores as they do in life, and not a GIL."""

import asyncio
from multiprocessing.connection import Connection
from typing import Any, Protocol

from deploy.local.child import Child

from bench.measurement import Measurement


class Part(Protocol):
    """What a worker runs: `start` once, and then `measure` as often as asked. Only one worker measures at a time."""

    async def start(self) -> Any: ...
    async def measure(self, count: int, seconds: float) -> Measurement: ...


class Worker(Child):
    """Runs `make(*arguments)`, a Part, in another process; `started` is what its `start` returned."""

    def __init__(self, make: type[Part], *arguments: Any) -> None:
        super().__init__(_work, make, arguments)

    def measure(self, count: int, seconds: float) -> Measurement:
        """Measures with `count` of whatever the part has many of."""
        answer: Measurement = self.ask((count, seconds))
        return answer


def _work(connection: Connection, make: type[Part], arguments: tuple[Any, ...]) -> None:
    asyncio.run(_serve(connection, make(*arguments)))


async def _serve(connection: Connection, part: Part) -> None:
    connection.send(await part.start())
    while True:
        # Waiting on a thread leaves the loop free for the part's own background work.
        count, seconds = await asyncio.to_thread(connection.recv)
        connection.send(await part.measure(count, seconds))

"""A process of its own for each part, so that server and clients share the cores as they do in life, and not a GIL."""

import asyncio
import multiprocessing
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Protocol, Self

from bench.measurement import Measurement

_PROCESSES = multiprocessing.get_context("spawn")  # a forked gRPC or ONNX Runtime does not work


class Part(Protocol):
    """What a worker runs: `start` once, and then `measure` as often as asked. Only one worker measures at a time."""

    async def start(self) -> Any: ...
    async def measure(self, count: int, seconds: float) -> Measurement: ...


class Worker:
    """Runs `make(*arguments)`, a Part, in another process."""

    def __init__(self, make: type[Part], *arguments: Any) -> None:
        self._connection, theirs = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=_work, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.started = self._connection.recv()  # what the part's `start` returned

    def measure(self, count: int, seconds: float) -> Measurement:
        """Measures with `count` of whatever the part has many of."""
        self._connection.send((count, seconds))
        answer: Measurement = self._connection.recv()
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.join()


def _work(connection: Connection, make: type[Part], arguments: tuple[Any, ...]) -> None:
    asyncio.run(_serve(connection, make(*arguments)))


async def _serve(connection: Connection, part: Part) -> None:
    connection.send(await part.start())
    while True:
        # Waiting on a thread leaves the loop free for the part's own background work.
        count, seconds = await asyncio.to_thread(connection.recv)
        connection.send(await part.measure(count, seconds))

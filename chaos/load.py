"""A crowd in a process of its own, so that its clients share the cores with the servers as they do in life."""

import asyncio
import multiprocessing
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

from chaos.crowd import Crowd, Plan
from chaos.tally import Tally

_PROCESSES = multiprocessing.get_context("spawn")  # a forked gRPC or ONNX Runtime does not work


class Load:
    """Starts the crowd of a plan and returns once its sessions are open."""

    def __init__(self, plan: Plan) -> None:
        self._connection, theirs = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=_work, args=(theirs, plan), daemon=True)
        self._process.start()
        theirs.close()
        self._connection.recv()

    def cut(self) -> None:
        """Breaks the connections of one of its clients."""
        self._connection.send("cut")

    def settle(self) -> None:
        """Waits until it has all answers that it waits for now."""
        self._connection.send("settle")
        self._connection.recv()

    def finish(self) -> Tally:
        """Ends the crowd, and returns what it has seen."""
        self._connection.send("finish")
        tally: Tally = self._connection.recv()
        return tally

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.join()


def _work(connection: Connection, plan: Plan) -> None:
    asyncio.run(_serve(connection, plan))


async def _serve(connection: Connection, plan: Plan) -> None:
    crowd = Crowd(plan)
    await crowd.start()
    connection.send(None)
    while (command := await asyncio.to_thread(connection.recv)) != "finish":  # on a thread: the loop goes on meanwhile
        if command == "cut":
            crowd.cut()
        else:
            await crowd.settle()
            connection.send(None)
    connection.send(await crowd.finish())

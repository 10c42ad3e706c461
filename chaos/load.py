"""A crowd in a process of its own, so that its clients share the cores with the servers as they do in life."""

import asyncio
from multiprocessing.connection import Connection

from deploy.local.child import Child

from chaos.crowd import Crowd, Plan
from chaos.tally import Tally


class Load(Child):
    """Starts the crowd of a plan and returns once its sessions are open."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(_work, plan)

    def cut(self) -> None:
        """Breaks the connections of one of its clients."""
        self.send("cut")

    def settle(self) -> None:
        """Waits until it has all answers that it waits for now."""
        self.ask("settle")

    def finish(self) -> Tally:
        """Ends the crowd, and returns what it has seen."""
        tally: Tally = self.ask("finish")
        return tally


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

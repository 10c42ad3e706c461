"""Rows of requests to models that remember nothing."""

from collections import defaultdict

from conveyor.engine.durability import NOT_STORED
from conveyor.engine.engine import Engine
from conveyor.engine.engines import Engines
from conveyor.engine.work import Answer, OpenOptions
from conveyor.errors import InvalidArgument
from conveyor.rpc.inference.request import Asked
from conveyor.rpc.inference.run import run

# There is nothing in such a session that would be worth keeping.
OPTIONS = OpenOptions(idle_timeout=10.0, durability=NOT_STORED)


class Rows:
    """Runs each row in a session that later rows take over: to open one for each would cost more than many runs do.

    There are as many sessions as rows have run at once; those that nobody uses any more idle out.
    """

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._idle: dict[tuple[str, int], list[str]] = defaultdict(list)

    async def run(self, engine: Engine, asked: Asked, deadline: float) -> list[Answer]:
        """The answer to each row.

        Raises:
            InvalidArgument: more rows than run at once.
            ConveyorError: as the engine, for whichever row was first.
        """
        if len(asked.rows) > engine.max_batch:
            raise InvalidArgument("inputs", f"a batch of {len(asked.rows)}, more than the {engine.max_batch} allowed")
        idle, taken = self._idle[engine.name, engine.version], list[str]()
        try:
            for _ in asked.rows:
                taken.append(await self._take(engine, idle))
            return await run(engine, dict(zip(taken, asked.rows, strict=True)), asked.want, deadline)
        finally:
            idle.extend(taken)

    async def _take(self, engine: Engine, idle: list[str]) -> str:
        while idle:
            if (session_id := idle.pop()) in engine:
                return session_id
        return (await self._engines.open(engine.name, engine.version, OPTIONS, {})).session_id

"""Rows of requests to models that remember nothing."""

from collections import defaultdict
from collections.abc import Mapping

from conveyor.engine.durability import NOT_STORED
from conveyor.engine.engine import Engine
from conveyor.engine.engines import Engines
from conveyor.engine.work import Answer, Array, OpenOptions
from conveyor.errors import InvalidArgument
from conveyor.rpc.inference.request import Asked
from conveyor.rpc.inference.run import run

# There is nothing in such a session that would be worth keeping.
OPTIONS = OpenOptions(idle_timeout=10.0, durability=NOT_STORED)


class Rows:
    """Runs each row in a session that later rows take over: to open one for each would cost more than many runs do.

    There are as many sessions as rows have run at once; those that nobody uses any more idle out. A request with
    constants of its own has sessions of its own.
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
        taken = list[str]()
        try:
            for _ in asked.rows:
                taken.append(await self._take(engine, asked.contexts))
            return await run(engine, dict(zip(taken, asked.rows, strict=True)), asked.want, deadline)
        finally:
            for session_id in taken:
                self._give_back(engine, session_id, asked.contexts)

    async def _take(self, engine: Engine, contexts: Mapping[str, Array]) -> str:
        idle = self._idle[engine.name, engine.version]
        while idle and not contexts:
            if (session_id := idle.pop()) in engine:
                return session_id
        return (await self._engines.open(engine.name, engine.version, OPTIONS, contexts)).session_id

    def _give_back(self, engine: Engine, session_id: str, contexts: Mapping[str, Array]) -> None:
        if not contexts:
            self._idle[engine.name, engine.version].append(session_id)
        elif session_id in engine:
            engine.close(session_id)

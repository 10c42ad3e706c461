"""A version on its way out: its sessions go on until they end by themselves, or until its time is over."""

import asyncio
import logging
from collections.abc import Callable
from time import monotonic

from conveyor.engine.engine import Engine
from conveyor.engine.engines import Engines
from conveyor.engine.work import EndReason
from conveyor.errors import Aborted

log = logging.getLogger("conveyor.repository")

POLL_SECONDS = 0.05


class Departure:
    """Begins when it is made, and opens no more sessions on the engine.

    The sessions may go on for `seconds`, and after that take `drain_seconds` to finish their work and be stored. An
    engine that `lingers` stays for all of its time, whether it has sessions or not. `gone` is called when it is out.
    """

    def __init__(
        self,
        engine: Engine,
        engines: Engines,
        seconds: float,
        drain_seconds: float,
        gone: Callable[["Departure"], None],
        *,
        lingers: bool = False,
    ) -> None:
        self.engine = engine
        self._engines = engines
        self._deadline = monotonic() + seconds
        self._drain_seconds = drain_seconds
        self._gone = gone
        self._lingers = lingers
        self.is_final = False
        self.num_ended = 0
        engines.retire(engine)
        log.info("model retired", extra={**self._fields, "seconds": seconds, "sessions": engine.num_sessions})
        self._task = asyncio.get_running_loop().create_task(self._run())

    def hurry(self, seconds: float) -> None:
        """Lets the sessions go on for so long from now at most."""
        self._deadline = min(self._deadline, monotonic() + seconds)
        self._lingers = False

    @property
    def is_over(self) -> bool:
        """True once its time has passed; an engine without sessions may be out before."""
        return monotonic() >= self._deadline

    async def done(self) -> int:
        """Waits until the engine is out; returns how many sessions were ended for it.

        Raises:
            Aborted: it stays after all.
        """
        await asyncio.wait((self._task,))
        if self._task.cancelled():
            model = f"model {self.engine.name} version {self.engine.version}"
            raise Aborted(f"{model} stays: it was loaded again, or the server stops")
        self._task.result()
        return self.num_ended

    def cancel(self) -> None:
        """Lets the engine stay. Without effect once its sessions are being ended."""
        if not self.is_final:
            self._task.cancel()

    @property
    def _fields(self) -> dict[str, object]:
        return {"model": self.engine.name, "version": self.engine.version}

    async def _run(self) -> None:
        # Sessions end in many ways, and versions leave seldom: asking costs less than being told.
        while not self.is_over and (self._lingers or self.engine.num_sessions):  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)
        self.is_final = True
        self.num_ended = self.engine.num_sessions
        try:
            await self.engine.drain(self._drain_seconds, EndReason.UNLOADED)
        finally:
            self._engines.remove(self.engine)
            self._gone(self)
            await self.engine.stop()
        log.info("model unloaded", extra={**self._fields, "ended_sessions": self.num_ended})

"""Between the core and its runs: forms batches of what waits, has them run, and takes what came of them."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence

import numpy as np

from conveyor.engine.assembly import Assembly
from conveyor.engine.core import Core
from conveyor.engine.feeds import Results
from conveyor.engine.runs import INLINE_SESSIONS, Runs
from conveyor.engine.scheduler import Batch
from conveyor.engine.work import BatchRecord, Observer

log = logging.getLogger("conveyor.engine")


class Pump:
    """All methods are called on the event loop that `start` was called on.

    After each run that did not fail `ran` is called with the time, on the engine's clock; `deliver` is called when
    outcomes may have come up.
    """

    def __init__(
        self, core: Core, runs: Runs, observer: Observer, ran: Callable[[float], None], deliver: Callable[[], None]
    ) -> None:
        self._core = core
        self._runs = runs
        self._observer = observer
        self._ran = ran
        self._deliver = deliver
        self._is_due = False
        self._num_ready = 0  # at the last look

    def start(self) -> None:
        """Starts the runs."""
        self._loop = asyncio.get_running_loop()
        self._runs.start(self._came_back)

    async def stop(self) -> None:
        """Stops the runs, after the one under way. May be called again."""
        await self._runs.stop()

    @property
    def is_stopped(self) -> bool:
        """True before the start, and once the runs have ended."""
        return self._runs.is_stopped

    def start_soon(self) -> None:
        """Takes the news that a session may run."""
        # Once for all that this turn of the loop brings, and the next turns while each brings more: that is the whole
        # of the batching window. Behind a run there is nothing to do: its end pumps.
        if not self._is_due and self._can_start():
            self._is_due = True
            self._loop.call_soon(self._start)

    def _start(self) -> None:
        """Starts what can run, then sends what has come of the runs: the sending is done while the next one runs."""
        self._is_due = False
        if self._grows():
            self._deliver()
            self.start_soon()
            return
        while self._can_start() and (formed := self._core.next_batch(time.monotonic())):
            if self._runs.is_quick(formed[0]):
                self._finish(*formed, self._runs.run(*formed))
                if self._core.num_ready:  # the loop has its turn first, or one generation would hold up all else
                    self.start_soon()
                break
            self._runs.begin(*formed)
        self._deliver()

    def _grows(self) -> bool:
        """True if more sessions wait than at the last look, and no run: a turn of the loop later it may be more yet."""
        before, self._num_ready = self._num_ready, self._core.num_ready
        # Few sessions do not wait for company: they are run on the loop, at once.
        has_room = INLINE_SESSIONS < self._num_ready < self._core.batch_limit
        return has_room and self._num_ready > before and not self._runs.num_under_way

    def _can_start(self) -> bool:
        """One batch at a time lets the next grow meanwhile; a second may wait beside it if it cannot grow."""
        num_running = self._runs.num_under_way
        return num_running == 0 or (num_running == 1 and self._core.num_ready >= self._core.batch_limit)

    def _came_back(self, batch: Batch, assembly: Assembly, results: Results) -> None:
        self._finish(batch, assembly, results)
        self._start()

    def _finish(self, batch: Batch, assembly: Assembly, results: Results) -> None:
        now = time.monotonic()
        if results.error is not None:
            error_id = secrets.token_hex(8)
            log.error("a run of %d sessions failed", len(batch), exc_info=results.error, extra={"error_id": error_id})
            self._observer.run_failed()
            self._core.fail(batch, results, error_id)
            return
        began = now - results.run_seconds
        waits = [began - job.arrived for job in batch.jobs if job.num_done == job.num_known and job.num_steps]
        self._core.finish(batch, assembly, results, now)
        self._ran(now)
        self._observe(batch, assembly, results, waits)

    def _observe(self, batch: Batch, assembly: Assembly, results: Results, waits: Sequence[float]) -> None:
        if batch.spills:
            self._observer.states_spilled(len(batch.spills))
        if batch.num_returning:
            self._observer.states_restored(batch.num_returning)
        self._observer.batch_ran(
            BatchRecord(len(batch), sum(batch.lengths), len(assembly.drawn), results.run_seconds, np.array(waits))
        )

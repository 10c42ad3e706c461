"""A model's runs: quick ones on the event loop itself, the others one after another on a thread of their own."""

import asyncio
import contextlib
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread

from conveyor.engine.assembly import Assembly
from conveyor.engine.feeds import Results
from conveyor.engine.runner import Runner
from conveyor.engine.scheduler import Batch

# A batch of so few sessions, expected to take no longer than this, runs on the event loop itself: the two thread
# switches would cost a lone session more than the loop's other users lose by waiting.
INLINE_SESSIONS = 2
INLINE_SECONDS = 0.002


class Runs:
    """All methods are called on the event loop that `start` was called on.

    `num_under_way` counts the batches that the thread has not run.
    """

    def __init__(self, runner: Runner, name: str) -> None:
        self._runner = runner
        self._step_seconds = runner.warm_up(1)  # cost of a small run's step, followed from here on
        self._batches: SimpleQueue[tuple[Batch, Assembly] | None] = SimpleQueue()
        self._thread = Thread(target=self._run_batches, name=f"run-{name}", daemon=True)
        self.num_under_way = 0

    def start(self, came_back: Callable[[Batch, Assembly, Results], None]) -> None:
        """Starts the thread; `came_back` is called on the loop with each batch that it has run."""
        self._came_back = came_back
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Stops the thread, after the run it is in. May be called again."""
        if self._thread.is_alive():
            self._batches.put(None)
            await asyncio.to_thread(self._thread.join)

    @property
    def is_stopped(self) -> bool:
        """True before the start, and once the thread has ended."""
        return not self._thread.is_alive()

    def is_quick(self, batch: Batch) -> bool:
        """True if the batch had better run on the event loop."""
        if self.num_under_way or self._runner.is_cuda or len(batch) > INLINE_SESSIONS:
            return False
        return batch.num_steps * self._step_seconds <= INLINE_SECONDS

    def run(self, batch: Batch, assembly: Assembly) -> Results:
        """Runs a batch here and now; what goes wrong comes back as the results' error."""
        results = self._run(assembly)
        self._time(batch, results)
        return results

    def begin(self, batch: Batch, assembly: Assembly) -> None:
        """Hands a batch to the thread."""
        self.num_under_way += 1
        self._batches.put((batch, assembly))

    def _run_batches(self) -> None:
        while (formed := self._batches.get()) is not None:
            results = self._run(formed[1])
            with contextlib.suppress(RuntimeError):  # the loop was closed before the engine was stopped
                self._loop.call_soon_threadsafe(self._finish, *formed, results)

    def _run(self, assembly: Assembly) -> Results:
        results = Results()
        try:
            self._runner.run(assembly.feeds, results)
        except Exception as error:  # whatever the runtime raises, the sessions must go on
            results.error = error
        return results

    def _finish(self, batch: Batch, assembly: Assembly, results: Results) -> None:
        self.num_under_way -= 1
        self._time(batch, results)
        self._came_back(batch, assembly, results)

    def _time(self, batch: Batch, results: Results) -> None:
        if results.error is None and len(batch) <= INLINE_SESSIONS:
            self._step_seconds = 0.8 * self._step_seconds + 0.2 * results.run_seconds / batch.num_steps

"""One loaded model, serving: the core's rules, its runs, and the event loop between them."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from itertools import islice

from conveyor.engine.checkpoint import Head, State, start_from
from conveyor.engine.core import Core
from conveyor.engine.delivery import Delivery
from conveyor.engine.durability import Durability, Mode, Stored
from conveyor.engine.initialiser import Initialiser
from conveyor.engine.limits import Device, EngineStats, Limits
from conveyor.engine.overview import page_of, stats_of, view_of
from conveyor.engine.persistence import Persistence
from conveyor.engine.prefixes import Prefixes
from conveyor.engine.pump import Pump
from conveyor.engine.runner import Runner
from conveyor.engine.runs import Runs
from conveyor.engine.session import Session
from conveyor.engine.store_writer import StoreWriter
from conveyor.engine.table import ALIKE
from conveyor.engine.work import (
    Array,
    Chunk,
    EndReason,
    Generation,
    Observer,
    OpenOptions,
    SessionView,
    Sink,
    Start,
)
from conveyor.errors import Aborted, ResourceExhausted, Unavailable, WrongPosition
from conveyor.graph.model_file import ModelFile

log = logging.getLogger("conveyor.engine")

EXPIRY_INTERVAL = 0.5  # seconds between looks at the sessions' deadlines
LEAVING_SECONDS = 0.001  # between looks at a state that is being spilled, and can be read once the run is over
SAVE_INTERVAL = 0.05  # seconds between looks at what is to be stored
ENDED_AT_ONCE = 256  # sessions, before others on the event loop have their turn
STORING_SHARE = 0.25  # of a drain's time, which work that does not end leaves for storing


class Engine:
    """All methods are called on the event loop that `start` was called on."""

    def __init__(
        self,
        model: ModelFile,
        name: str,
        version: int,
        limits: Limits,
        device: Device,
        observer: Observer,
        writer: StoreWriter | None = None,
    ) -> None:
        self.name, self.version, self.fingerprint = name, version, model.fingerprint
        self.signature, self.vocabulary = model.signature, model.vocabulary
        self.token_input = model.signature.inputs[0].name if model.signature.takes_tokens else None
        self.state_bytes = model.signature.state_bytes
        self.runner = Runner(model, limits.num_rows, device, max_batch=limits.max_batch)
        graph = self.runner.graph
        max_batch = limits.max_batch if graph.can_batch else 1
        self.runner.warm_up(max_batch)
        self._initialiser = Initialiser(graph)
        self._initialiser.warm_up()
        self._prefixes = Prefixes(model.signature, limits.prefix_cache_bytes, self.runner.read, observer.prefix_sought)
        self._core = Core(
            model.signature,
            limits,
            self.runner.initial_rows(),
            self._prefixes,
            is_ragged=graph.is_ragged,
            max_run_steps=min(limits.max_run_steps, graph.max_steps or limits.max_run_steps),
            max_batch=max_batch,
            constants=graph.constants_of if model.signature.constants else None,
        )
        self._limits, self._observer = limits, observer
        self.persistence = Persistence(
            (name, version, self.fingerprint), self._core, self.runner, writer, observer, self._deliver
        )
        self._delivery = Delivery((name, version), self._core, observer, self.persistence.close)
        runs = Runs(self.runner, f"{name}-{version}")
        self._pump = Pump(self._core, runs, observer, self._ran, self._deliver)
        self._is_draining = self._is_unloading = False
        self._idle = asyncio.Event()  # set once a draining engine has no work left

    @property
    def limits(self) -> Limits:
        """What it may hold."""
        return self._limits

    @property
    def max_batch(self) -> int:
        """Most sessions of one run."""
        return self._limits.max_batch if self.runner.graph.can_batch else 1

    @property
    def num_sessions(self) -> int:
        """Open sessions."""
        return len(self._core.table)

    def start(self) -> None:
        """Starts the runs and the timers."""
        self._pump.start()
        loop = asyncio.get_running_loop()
        self._timers = [loop.create_task(self._expire_forever())]
        if self.persistence.has_store:
            self._timers.append(loop.create_task(self._save_forever()))

    async def start_of(self, contexts: Mapping[str, Array]) -> Start:
        """What these contexts, without a batch axis, make of a session that is to be opened.

        Raises:
            InvalidArgument: one is missing, unknown or malformed.
            Unavailable: the server is draining.
        """
        self.check_draining()
        self._initialiser.check(contexts)
        if not self.signature.contexts:
            return ALIKE
        return await asyncio.to_thread(self._initialiser.start, contexts)

    def open(self, options: OpenOptions, start: Start = ALIKE) -> SessionView:
        """Opens a session where it starts, in this process alone; `store` makes it outlive the process.

        Raises:
            AlreadyExists: the id is in use.
            ResourceExhausted: as many sessions are open as may be.
            Unavailable: the server is draining.
        """
        self.check_draining()
        try:
            session = self._core.table.open(options, time.monotonic(), start)
        except ResourceExhausted as error:
            self._observer.work_refused(error.reason)
            raise
        if start.position and start.initial is not None:
            self._core.residence.spilled.put(session.session_id, start.initial)
            session.initial = None
        self._observer.session_opened()
        log.info(
            "session opened", extra={"session_id": session.session_id, "model": self.name, "version": self.version}
        )
        return self._view(session)

    async def store(self, session_id: str, durability: Durability) -> None:
        """Makes an open session outlive the process, as far as it is to; if that fails, it is not open any more.

        Raises:
            AlreadyExists: the store has a session of that id.
            FailedPrecondition: there is no store.
            Unavailable: the store does not answer, or the server has drained meanwhile.
        """
        if durability.mode is Mode.NONE:
            return
        session = self._core.table.get(session_id)
        session.is_opening = True
        try:
            await self.persistence.create(session, durability)
        except BaseException:
            if session.is_open:
                self._core.end(session, EndReason.CLOSED)
                self._deliver()
            raise
        finally:
            session.is_opening = False
        if not session.is_open:
            raise Unavailable(f"session_id: session {session_id!r} has ended while it was opened")

    def check_room(self, session_id: str) -> None:
        """Raises what `adopt` of a session would, if it could not be."""
        self.check_draining()
        if session_id not in self:
            self._core.table.check_room()

    def adopt(self, session_id: str, head: Head, state: State, stored: Stored) -> None:
        """Takes up a session that the store had.

        One of that id that is here is let go: another server has had it since, or its client could not go on from it.

        Raises:
            ResourceExhausted, Unavailable: as `open`.
        """
        if session_id in self:
            self.let_go(session_id)
        now = time.time()
        start = replace(start_from(head, state), age=max(0.0, now - head.opened))
        remaining = max(0.001, head.lifetime_ends - now)
        self.open(OpenOptions(session_id, head.seed, head.idle_timeout, remaining), start)
        session = self._core.table.get(session_id)
        session.kept, session.drawn = state.kept, state.drawn
        if stored.durability.mode is not Mode.NONE:
            session.stored = stored
        self._observer.session_resumed()

    async def claim(self, session_id: str, is_ours: Awaitable[bool]) -> None:
        """Lets nobody find a session that was taken up until it is known that no other server has taken it.

        Raises:
            Aborted: one has; it is not open here any more.
        """
        session = self._core.table.get(session_id)
        session.is_opening = True
        try:
            was_taken = not await is_ours
        finally:
            session.is_opening = False
        if was_taken:
            if session.is_open:
                self.let_go(session_id)
            raise Aborted("session_id: another server has taken it up this moment")

    def let_go(self, session_id: str) -> None:
        """Ends a session that another server has by now. Raises NotFound."""
        self._core.end(self._core.table.get(session_id), EndReason.MOVED)
        self._deliver()

    async def state_of(self, session_id: str, position: int | None) -> tuple[Head, State]:
        """Head and state of a session as it is now.

        Raises:
            NotFound: there is none.
            WrongPosition: it is elsewhere.
        """
        while (session := self._core.table.get(session_id)).is_leaving:  # noqa: ASYNC110 - a run of a step or a few
            await asyncio.sleep(LEAVING_SECONDS)
        if position is not None and position != session.position:
            raise WrongPosition(position, session.position)
        return self.persistence.head_of(session), self.persistence.states_of([session])[0]

    def epoch_of(self, session_id: str) -> int:
        """The epoch of a session as clients are told it: 0 if it is not stored. Raises NotFound."""
        stored = self._core.table.get(session_id).stored
        return stored.told_epoch if stored else 0

    def answers_from(self, session_id: str, received: int) -> bool:
        """True if a client with the answers up to `received` can go on. Raises NotFound."""
        return self._core.table.get(session_id).answers_from(received)

    def asks_again(self, session_id: str, position: int | None) -> bool:
        """True of work that begins before a stored session's position, whose answer is asked for again.

        Whoever does that has had trouble, and may have asked another server before this one. That one has then taken
        the session behind what was answered and stored here: a client that went on here would find no way back.

        Raises:
            NotFound: there is no such session.
        """
        session = self._core.table.get(session_id)
        return session.stored is not None and position is not None and position < session.position

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._core.table

    def get(self, session_id: str) -> SessionView:
        """The session as it is now. Raises NotFound."""
        return self._view(self._core.table.get(session_id))

    def list(self, count: int, after: tuple[float, str] | None = None) -> list[SessionView]:
        """The next so many open sessions by creation time and id, behind such a place."""
        return [self._view(session) for session in page_of(self._core.table, count, after)]

    def close(self, session_id: str) -> SessionView:
        """Ends a session at its client's wish. Raises NotFound."""
        session = self._core.table.get(session_id)
        view = self._view(session)
        self._core.end(session, EndReason.CLOSED)
        self._deliver()
        return view

    def submit(self, work: Chunk | Generation) -> None:
        """Accepts work; its outcomes come through its sink.

        Raises:
            ConveyorError: it is refused, and nothing has changed.
        """
        self.check_draining()
        try:
            self._core.accept(work, time.monotonic())
        except ResourceExhausted as error:
            self._observer.work_refused(error.reason)
            raise
        if self._core.outbox.ready:
            self._deliver()
        self._pump.start_soon()

    def cancel(self, work: Chunk | Generation) -> None:
        """Forgets work that has not finished; its sink hears no more of it."""
        self._core.cancel(work)
        self._deliver()

    def detach(self, sink: Sink) -> None:
        """Forgets a sink and all its unfinished work."""
        self._core.detach(sink)
        self._deliver()

    def stats(self) -> EngineStats:
        """What the engine holds now."""
        return stats_of(self._core, self._limits, self.runner, self._prefixes)

    async def drain(self, timeout: float, reason: EndReason = EndReason.DRAINED) -> None:  # noqa: ASYNC109 - see below
        """Refuses new work, lets what was accepted finish, stores every session and ends it, all within `timeout` s."""
        # Past the timeout the sessions still have to be ended.
        self._is_unloading = reason is EndReason.UNLOADED
        self._is_draining = True
        deadline = time.monotonic() + timeout
        if self._core.num_waiting:
            await self._finish_work(timeout)
        await self.persistence.store_all(max(0.0, deadline - time.monotonic()))
        while some := list(islice(self._core.table, ENDED_AT_ONCE)):
            for session in some:
                self._core.end(session, reason)
            self._deliver()
            await asyncio.sleep(0)

    async def _finish_work(self, seconds: float) -> None:
        """Waits for the end of what was accepted. With a store, what takes too long stops, to go on elsewhere."""
        has_store = self.persistence.has_store
        try:
            await asyncio.wait_for(self._idle.wait(), seconds * (1 - STORING_SHARE) if has_store else seconds)
        except TimeoutError:
            if has_store:
                self._core.stop_work(self._draining())
                self._deliver()

    async def stop(self) -> None:
        """Stops the runs, after the one under way, and the timers. May be called again."""
        self._is_draining = True
        if not self._pump.is_stopped:
            await self._pump.stop()
            for timer in self._timers:
                timer.cancel()
            await asyncio.gather(*self._timers, return_exceptions=True)

    def check_draining(self) -> None:
        """Raises Unavailable once the server stops, or the model is unloaded."""
        if self._is_draining:
            self._observer.work_refused("draining")
            raise self._draining()

    def _draining(self) -> Unavailable:
        what = f"model {self.name} version {self.version}" if self._is_unloading else "the server"
        return Unavailable(f"{what} is draining")

    def _ran(self, now: float) -> None:
        self._prefixes.keep()
        self.persistence.save_due(now)

    def _deliver(self) -> None:
        self._delivery.deliver()
        if self._is_draining and not self._core.num_waiting:
            self._idle.set()

    async def _save_forever(self) -> None:
        while True:
            await asyncio.sleep(SAVE_INTERVAL)
            now = time.monotonic()
            self.persistence.look(now)
            self.persistence.save_due(now)

    async def _expire_forever(self) -> None:
        while True:
            await asyncio.sleep(EXPIRY_INTERVAL)
            while ended := self._core.table.expired(time.monotonic(), ENDED_AT_ONCE):
                for session, reason in ended:
                    self._core.end(session, reason)
                self._deliver()
                await asyncio.sleep(0)

    def _view(self, session: Session) -> SessionView:
        return view_of(session, (self.name, self.version), self.state_bytes)

"""Brings checkpoints to the store: all that came together in one call, one call at a time."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from time import monotonic

from conveyor.errors import Unavailable
from conveyor.store import Save, Saved, Store, StoreError

log = logging.getLogger("conveyor.store")

# Sessions of one call: enough to make its fixed cost small, few enough that those behind it do not wait for long.
MAX_SAVES = 512
MAX_SAVE_BYTES = 16 << 20  # of their checkpoints: a network has to bring them in the time of one call
# Seconds until a store that failed is asked again.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
FIRST_EPOCH = 1  # of a record whose id was not used before
MAX_CLOSINGS = 100_000  # that wait for a store which is gone; beyond them records are left to expire

Done = Callable[[Saved | StoreError], None]


def first_of_call(sizes: Iterable[int]) -> int:
    """How many of checkpoints with these sizes, in bytes, one call of the store takes: at least one."""
    num_bytes = count = 0
    for size in sizes:
        num_bytes += size
        if count == MAX_SAVES or (count and num_bytes > MAX_SAVE_BYTES):
            break
        count += 1
    return count


@contextlib.contextmanager
def store_answers() -> Iterator[None]:
    """What a client reads when the store does not do what it is asked for in here.

    Raises:
        Unavailable: in place of a StoreError.
    """
    try:
        yield
    except StoreError as error:
        raise no_answer(error) from None


def no_answer(error: StoreError) -> Unavailable:
    """What a client reads of a store's failure."""
    return Unavailable(f"the store does not answer: {error}")


@dataclass(slots=True)
class _Waiting:
    save: Save
    must_replicate: bool
    done: Done

    def tell(self, outcome: Saved | StoreError) -> None:
        """Tells what came of it; the others must not miss theirs for one that cannot take it."""
        try:
            self.done(outcome)
        except Exception:
            log.exception("session %s: what came of its checkpoint was not taken", self.save.session_id)


@dataclass(slots=True, eq=False)
class _Creation:
    save: Save
    must_replicate: bool
    created: asyncio.Future[int]


@dataclass(slots=True, eq=False)
class _Closing:
    """A record that is to be closed: of an epoch, or one that was made if its head has this digest."""

    epoch: int = 0
    head: bytes | None = None
    was_tried: asyncio.Event = field(default_factory=asyncio.Event)
    was_done: asyncio.Event = field(default_factory=asyncio.Event)
    was_ours: bool = False  # once done: no other server had taken it up


class StoreWriter:
    """One for each server, shared by its engines; lives on their event loop."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._saves: list[_Waiting] = []
        self._creations: list[_Creation] = []
        self._closings: dict[str, _Closing] = {}
        self._news = asyncio.Event()
        self._pause = FIRST_PAUSE
        self._retry_at = 0.0
        self._is_unheard = False  # it did not tell of a session that somebody looked for
        self._retry: asyncio.TimerHandle | None = None  # of closings, and of listening
        self._task: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    def start(self) -> None:
        """Begins to write, on the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._write_forever())

    async def stop(self, seconds: float) -> None:
        """Writes what waits, for at most so long, and closes the store."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._retry is not None:
            self._retry.cancel()
        try:
            await self.store.stop()
        except StoreError as error:
            log.warning("the store was not closed: %s", error)

    @property
    def is_up(self) -> bool:
        """False from a failure until the store answers again."""
        return not self._retry_at and not self._is_unheard

    def may_try(self, now: float) -> bool:
        """False while a store that failed is left alone."""
        return now >= self._retry_at

    @contextlib.contextmanager
    def asked(self) -> Iterator[None]:
        """As `store_answers`, for who looks for a session: the store counts as down until it is heard again."""
        with store_answers():
            try:
                yield
            except StoreError as error:
                self._unheard(error)
                raise

    def save(self, save: Save, done: Done, *, must_replicate: bool) -> None:
        """Stores a checkpoint; `done` is told what came of it. At most one of a session may be on its way."""
        self._saves.append(_Waiting(save, must_replicate, done))
        self._wake()

    async def create(self, save: Save, *, must_replicate: bool = False) -> int:
        """Makes a record; returns its epoch, 0 if a session of that id is open.

        Raises:
            StoreError: the store does not do it, or does not say; if it has done it all the same, that is undone.
        """
        created: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._creations.append(_Creation(save, must_replicate, created))
        self._wake()
        return await created

    def close(self, session_id: str, epoch: int) -> None:
        """Closes a record, as soon as the store lets us."""
        self._end(session_id, _Closing(epoch))

    def _end(self, session_id: str, closing: _Closing) -> None:
        if len(self._closings) < MAX_CLOSINGS:
            self._closings[session_id] = closing
            self._wake()

    def is_closing(self, session_id: str) -> bool:
        """True of a session that has ended, and of which the store may not know yet."""
        closing = self._closings.get(session_id)
        return closing is not None and closing.head is None

    async def take_out(self, session_id: str, epoch: int) -> bool:
        """Closes a record, and waits however long that takes; False if another server has taken it up meanwhile."""
        self._end(session_id, closing := _Closing(epoch))
        if self._closings.get(session_id) is closing:
            await closing.was_done.wait()
        return closing.was_ours

    async def closed(self, session_id: str) -> None:
        """Waits until the store has closed a record, or did not let us: then it will be tried again and again."""
        if closing := self._closings.get(session_id):
            await closing.was_tried.wait()

    def _wake(self) -> None:
        self._idle.clear()
        self._news.set()

    async def _write_forever(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await self._close()  # first: an id may be closed and opened again
            await self._create()
            await self._save()
            await self._listen()
            if self._saves or self._creations or (self._closings and not self._retry_at):
                self._news.set()
                continue
            if self._closings or self._is_unheard:
                self._try_later()
            if not self._closings:
                self._idle.set()

    def _try_later(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._retry = asyncio.get_running_loop().call_later(LONGEST_PAUSE, self._news.set)

    async def _create(self) -> None:
        count = first_of_call(len(each.save.checkpoint) for each in self._creations)
        taken, behind = self._creations[:count], self._creations[count:]
        # An id that was closed during the call before is closed first, in the next round.
        self._creations = [each for each in taken if self._is_to_be_closed(each.save)] + behind
        waiting = [each for each in taken if not self._is_to_be_closed(each.save) and self._may_be_made(each)]
        if not waiting:
            return
        must_replicate = any(each.must_replicate for each in waiting)
        try:
            epochs = await self.store.create([each.save for each in waiting], must_replicate=must_replicate)
        except Exception as raised:
            error = _told_of(raised)
            self._failed(error)
            for each in waiting:
                self._end(each.save.session_id, _Closing(head=_digest(each.save.head)))
                if not each.created.done():
                    each.created.set_exception(error)
            return
        self._succeeded()
        for each, epoch in zip(waiting, epochs, strict=True):
            if not each.created.done():
                each.created.set_result(epoch)
            elif epoch:  # nobody waits for it any more
                self.close(each.save.session_id, epoch)

    def _is_to_be_closed(self, save: Save) -> bool:
        closing = self._closings.get(save.session_id)
        return closing is not None and not closing.was_tried.is_set()

    def _may_be_made(self, creation: "_Creation") -> bool:
        """False if nobody waits for it, or if a record of that id is still to be closed: that would close the new."""
        if not creation.created.done() and creation.save.session_id in self._closings:
            creation.created.set_exception(StoreError("it has not closed the session that had this id before"))
        return not creation.created.done()

    async def _save(self) -> None:
        count = first_of_call(len(each.save.checkpoint) for each in self._saves)
        waiting, self._saves = self._saves[:count], self._saves[count:]
        if not waiting:
            return
        must_replicate = any(each.must_replicate for each in waiting)
        outcomes: Sequence[Saved | StoreError]
        try:
            outcomes = await self.store.save([each.save for each in waiting], must_replicate=must_replicate)
        except Exception as raised:
            error = _told_of(raised)
            self._failed(error)
            outcomes = [error] * len(waiting)
        else:
            self._succeeded()
        for each, outcome in zip(waiting, outcomes, strict=True):
            each.tell(outcome)

    async def _close(self) -> None:
        closings = self._urgent_closings()
        if self.may_try(monotonic()):
            closings |= dict(islice(self._closings.items(), MAX_SAVES))
        if closings:
            try:
                epochs = await self._epochs_of(closings)
                outcomes = await self.store.close(epochs)
            except Exception as raised:
                self._failed(_told_of(raised))
            else:
                self._succeeded()
                for (session_id, _), was_ours in zip(epochs, outcomes, strict=True):
                    closings[session_id].was_ours = was_ours
                for session_id, closing in closings.items():
                    closing.was_done.set()
                    if self._closings[session_id] is closing:
                        del self._closings[session_id]
        for closing in closings.values():
            closing.was_tried.set()

    async def _listen(self) -> None:
        """Asks for no session. Whether it can be written to, writing tells."""
        if self._is_unheard and not self._retry_at:
            with contextlib.suppress(Exception):
                await self.store.read("")
                self._succeeded()

    def _urgent_closings(self) -> dict[str, _Closing]:
        """Those whose ids are to be opened again: they do not wait until the store has had its pause."""
        ids = (each.save.session_id for each in self._creations[:MAX_SAVES])
        return {session_id: self._closings[session_id] for session_id in ids if session_id in self._closings}

    async def _epochs_of(self, closings: dict[str, _Closing]) -> list[tuple[str, int]]:
        """What to close: of records that may have been made, those that were.

        One with a higher epoch may have been taken up since, so it is left alone.
        """
        known = [(session_id, closing.epoch) for session_id, closing in closings.items() if closing.head is None]
        for session_id, closing in closings.items():
            if closing.head is not None:
                record = await self.store.read(session_id)
                if record is not None and record.epoch == FIRST_EPOCH and _digest(record.head) == closing.head:
                    known.append((session_id, FIRST_EPOCH))
        return known

    def _failed(self, error: StoreError) -> None:
        self._tell_of(error)
        self._retry_at = monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _succeeded(self) -> None:
        if not self.is_up:
            log.info("the store answers again")
        self._retry_at, self._pause, self._is_unheard = 0.0, FIRST_PAUSE, False

    def _tell_of(self, error: StoreError) -> None:
        """Writes the first failure of a row into the log."""
        if self.is_up:
            log.error("the store does not answer: %s", error)

    def _unheard(self, error: StoreError) -> None:
        self._tell_of(error)
        if not self._is_unheard:
            self._is_unheard = True
            self._try_later()


def _digest(head: bytes | None) -> bytes:
    """Of no two openings the same: a head has the time."""
    return sha256(head or b"").digest()


def _told_of(error: Exception) -> StoreError:
    """What is unforeseen goes to the log, and must not end the writing."""
    if isinstance(error, StoreError):
        return error
    log.error("the store failed in an unforeseen way", exc_info=error)
    return StoreError("it failed in an unforeseen way")

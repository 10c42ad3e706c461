"""A `Stream` call that sessions share: it sends chunks together and mends itself when it breaks.

Chunks that are submitted in one turn of the event loop, or while a message is being written, go out in one message.
Nothing waits for company: a lone chunk leaves at once.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import grpc

from conveyor.client.backoff import Backoff
from conveyor.client.catch_up import resume
from conveyor.client.connection import Connection
from conveyor.client.errors import (
    ClientError,
    NotFound,
    Unavailable,
    WrongPosition,
    from_call,
    from_result,
    from_status,
)
from conveyor.client.lane import Lane
from conveyor.client.patience import Patience
from conveyor.client.pending import Pending
from conveyor.client.shards import metadata_of
from conveyor.v1 import session_pb2, step_pb2

if TYPE_CHECKING:
    from conveyor.client.streams import Streams

# A message stays well below the 4 MiB that gRPC servers take by default; a larger chunk travels alone.
MAX_MESSAGE_BYTES = 1 << 20
MAX_MESSAGE_CHUNKS = 4096
# Chunks of this many tokens or fewer are not measured: even all of a message's together are small.
_SMALL_STEPS = 16

_EXPIRY_SECONDS = 0.1

_END_REASONS = {
    session_pb2.END_REASON_CLOSED: "closed",
    session_pb2.END_REASON_IDLE: "idle",
    session_pb2.END_REASON_LIFETIME: "lifetime",
    session_pb2.END_REASON_DRAINED: "drained",
    session_pb2.END_REASON_UNLOADED: "unloaded",
    session_pb2.END_REASON_MOVED: "moved",
}


class Stream:
    """Carries the chunks of many lanes. Lives on one event loop."""

    def __init__(self, home: "Streams", connection: Connection, shard: str) -> None:
        self.shard = shard
        self.lanes: WeakSet[Lane] = WeakSet()
        self._home = home
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._pending: dict[int, Pending] = {}  # by request id
        self._outbox: deque[Pending] = deque()
        self._wake: asyncio.Future[None] | None = None  # set while the writer has nothing to do
        self._last_id = 0
        self._expiry: asyncio.TimerHandle | None = None
        self._runner: asyncio.Task[None] | None = None
        self._resuming: set[asyncio.Task[None]] = set()
        self._call: Any = None
        self._patience = Patience()
        self._quiet_since = 0.0  # the last message, or the first chunk that waits for one
        self._is_silent = False  # the call was given up for it

    @property
    def is_needed(self) -> bool:
        """True while a session or a chunk is on it."""
        return bool(self.lanes or self._pending)

    def submit(
        self, lane: Lane, chunk: step_pb2.Chunk, num_steps: int, tokens: Sequence[int], deadline: float
    ) -> "asyncio.Future[step_pb2.StepResult]":
        """Sends a chunk at the lane's next position. The future holds its answer or a ClientError."""
        future: asyncio.Future[step_pb2.StepResult] = self._loop.create_future()
        pending = Pending(lane, chunk, num_steps, tokens, deadline, future)
        if not self._pending:
            self._quiet_since = monotonic()
        is_free = lane.append(pending)
        self._register(pending)
        if is_free:
            self._send(pending)
        if self._expiry is None:
            self._expiry = self._loop.call_later(_EXPIRY_SECONDS, self._expire)
        return future

    def carry(self, lane: Lane) -> None:
        """Sends all chunks of a lane, for the first time or again."""
        self._quiet_since = monotonic()
        for pending in lane.restart():
            if not pending.request_id:
                self._register(pending)
            self._send(pending)

    def stop(self) -> None:
        """Ends the call."""
        for task in self._resuming:
            task.cancel()
        if self._expiry is not None:
            self._expiry.cancel()
        if self._runner is None:
            self._home.gone(self)
        else:
            self._runner.add_done_callback(lambda _: self._home.gone(self))
            self._runner.cancel()

    async def close(self) -> None:
        """Ends the call; chunks without an answer fail with Unavailable."""
        self.stop()
        if self._runner is not None:
            await asyncio.gather(self._runner, return_exceptions=True)
        self._fail_all(Unavailable("the client was closed"))

    def _register(self, pending: Pending) -> None:
        self._last_id = pending.request_id = pending.chunk.request_id = request_id = self._last_id + 1
        self._pending[request_id] = pending

    def _send(self, pending: Pending) -> None:
        pending.is_sent = True
        self._outbox.append(pending)
        if self._runner is None:
            self._runner = self._loop.create_task(self._run())
        if self._wake is not None:
            self._wake.set_result(None)
            self._wake = None

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            await self._work()
            error = await self._serve(backoff)
            self._lose()
            if error.is_too_large and self._pending:
                self._blame_largest(error)
            elif not error.is_retriable:
                self._fail_all(error)
            await asyncio.sleep(backoff.next(error.retry_after))
            self._outbox.clear()
            for lane in dict.fromkeys(pending.lane for pending in self._pending.values()):
                lane.is_adrift = False  # the next call leads where its shard is now
                self.carry(lane)

    def _lose(self) -> None:
        now = monotonic()
        for lane in self.lanes:
            lane.lose(now)

    async def _work(self) -> None:
        if not self._outbox:
            self._wake = self._loop.create_future()
            await self._wake

    async def _serve(self, backoff: Backoff) -> ClientError:
        """Sends and receives until the call ends; returns why it did."""
        call = self._call = self._connection.stub.Stream(metadata=metadata_of(self.shard))
        self._is_silent = False
        writer = self._loop.create_task(self._write(call))
        try:
            while (response := await call.read()) is not grpc.aio.EOF:
                backoff.reset()
                self._patience.reset()
                self._quiet_since = monotonic()
                self._receive(response)
            return from_status(await call.code(), await call.details(), await call.trailing_metadata())
        except grpc.aio.AioRpcError as failure:
            return from_call(failure)
        except asyncio.CancelledError:
            if not self._is_silent or self._runner is None or self._runner.cancelling():
                raise
            return Unavailable("the server is silent")
        finally:
            writer.cancel()
            call.cancel()
            self._call = self._wake = None

    async def _write(self, call: Any) -> None:
        try:
            while True:
                await self._work()
                chunks = self._take()
                if chunks:
                    await call.write(step_pb2.StreamRequest(chunks=chunks))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the call has ended: the reader learns why

    def _take(self) -> list[step_pb2.Chunk]:
        """Takes as much of the outbox as a message may hold."""
        chunks: list[step_pb2.Chunk] = []
        num_bytes = 0
        while self._outbox and len(chunks) < MAX_MESSAGE_CHUNKS:
            pending = self._outbox[0]
            num_bytes += 0 if pending.num_steps <= _SMALL_STEPS else pending.chunk.ByteSize()
            if chunks and num_bytes > MAX_MESSAGE_BYTES:
                break
            self._outbox.popleft()
            if self._pending.get(pending.request_id) is pending:  # else given up meanwhile
                chunks.append(pending.chunk)
        return chunks

    def _receive(self, response: step_pb2.StreamResponse) -> None:
        for end in response.ended:
            self._ended(end)
        for result in response.results:
            pending = self._pending.get(result.request_id)
            if pending is None:
                continue  # given up before its answer came
            if result.HasField("error"):
                self._failed(pending, from_result(result.error))
            elif pending.lane.answered(pending, result):
                del self._pending[result.request_id]
            else:
                self._refused(pending, result.epoch)

    def _ended(self, end: step_pb2.SessionEnd) -> None:
        lane = self._home.known(end.session_id)
        if lane is None or lane.stream is not self:
            return
        lane.end(_END_REASONS.get(end.reason, "unknown"), end.position)
        if lane.fate.is_ended:
            self._home.release(lane)
            return
        lane.lose(monotonic())
        if not lane.chunks:
            self._home.leave(lane)

    def _refused(self, pending: Pending, epoch: int) -> None:
        """An answer that is none to take is asked for again."""
        if epoch < pending.lane.epoch:
            self._connection.fenced_answers += 1
        self._retry(pending.lane, WrongPosition("another server has the session"))

    def _failed(self, pending: Pending, error: ClientError) -> None:
        self._forget(pending.lane.failed(pending, error, monotonic()))
        self._retry(pending.lane, error)

    def _retry(self, lane: Lane, error: ClientError) -> None:
        if lane.must_resend:
            self._loop.call_later(lane.retry_delay(error), self._resend, lane)

    def _resend(self, lane: Lane) -> None:
        if not lane.must_resend or lane.stream is not self:
            return  # a reconnection was first
        if lane.must_resume:
            self._resuming.add(task := self._loop.create_task(self._resume(lane)))
            task.add_done_callback(self._resuming.discard)
        elif lane.is_adrift:
            self._move(lane)
        else:
            self.carry(lane)

    def _move(self, lane: Lane) -> None:
        self._forget(lane.chunks)
        for pending in lane.chunks:
            pending.request_id = 0  # the next stream gives its own
        self._home.leave(lane)
        self._home.join(lane).carry(lane)

    async def _resume(self, lane: Lane) -> None:
        """Has the session go back to where its client can have all answers again."""
        try:
            session = await resume(self._connection, lane, is_repeated=True)
        except ClientError as error:
            if lane.chunks and (isinstance(error, NotFound) or error.is_retriable):
                self._failed(lane.chunks[0], error)
            elif lane.chunks:
                self._forget(lane.give_up(lane.chunks[0], error))
            return
        lane.went_back(session.epoch)
        self._resend(lane)

    def _expire(self) -> None:
        """Gives up chunks whose deadline has passed. One timer for all: a timer each would cost more than the chunk."""
        now = monotonic()
        for pending in [pending for pending in self._pending.values() if pending.deadline <= now]:
            if pending.request_id in self._pending:
                self._forget(pending.lane.expired(pending))
        self._check_silence(now)
        self._expiry = self._loop.call_later(_EXPIRY_SECONDS, self._expire) if self._pending else None
        self._home.retire(self)

    def _check_silence(self, now: float) -> None:
        """Gives up a call on which nothing comes though chunks wait: the server, or the way to it, stands still."""
        if self._call is None or now - self._quiet_since < self._patience.limit():
            return
        num_steps = sum(pending.num_steps for pending in self._pending.values() if pending.is_sent)
        if not num_steps:
            self._quiet_since = now
        elif now - self._quiet_since >= self._patience.limit(num_steps):
            self._patience.lose()
            self._is_silent = True
            self._call.cancel()

    def _forget(self, given_up: Iterable[Pending]) -> None:
        for pending in given_up:
            self._pending.pop(pending.request_id, None)

    def _fail_all(self, error: ClientError) -> None:
        for pending in list(self._pending.values()):
            if pending.request_id in self._pending:
                self._forget(pending.lane.give_up(pending, error))

    def _blame_largest(self, error: ClientError) -> None:
        largest = max(self._pending.values(), key=lambda pending: pending.chunk.ByteSize())
        self._forget(largest.lane.give_up(largest, error))

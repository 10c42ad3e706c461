"""The one `Stream` call that all sessions of a client share: it sends chunks together and mends itself when it breaks.

Chunks that are submitted in one turn of the event loop, or while a message is being written, go out in one message.
Nothing waits for company: a lone chunk leaves at once.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any
from weakref import WeakValueDictionary

import grpc

from conveyor.client.backoff import Backoff
from conveyor.client.errors import ClientError, Unavailable, from_call, from_result, from_status
from conveyor.client.lane import Lane, Pending
from conveyor.v1 import session_pb2, step_pb2

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
}


class Stream:
    """Carries the chunks of many lanes. `open_call` starts a `Stream` call. Lives on one event loop."""

    def __init__(self, open_call: Callable[[], Any]) -> None:
        self._open_call = open_call
        self._loop = asyncio.get_running_loop()
        self._lanes: WeakValueDictionary[str, Lane] = WeakValueDictionary()
        self._pending: dict[int, Pending] = {}  # by request id, in the order of submission
        self._outbox: deque[Pending] = deque()
        self._wake: asyncio.Future[None] | None = None  # set while the writer has nothing to do
        self._last_id = 0
        self._expiry: asyncio.TimerHandle | None = None
        self._runner: asyncio.Task[None] | None = None
        self._is_closed = False

    def new_lane(self, session_id: str, position: int) -> Lane:
        """A lane for a session that has just been opened; one before of the same id has ended."""
        lane = self._lanes[session_id] = Lane(session_id, position)
        return lane

    def lane(self, session_id: str, position: int) -> Lane:
        """The lane of a session that is open, shared by all who hold it here."""
        lane = self._lanes.get(session_id)
        if lane is None or lane.is_ended:
            return self.new_lane(session_id, position)
        if not lane.chunks:
            lane.settle(position)
        return lane

    def submit(
        self, lane: Lane, chunk: step_pb2.Chunk, num_steps: int, timeout: float
    ) -> "asyncio.Future[step_pb2.StepResult]":
        """Sends a chunk at the lane's next position. The future holds its answer or a ClientError.

        Raises:
            Unavailable: the client is closed.
            SessionEnded: the server has ended the session.
        """
        if self._is_closed:
            raise Unavailable("the client is closed")
        lane.check_open()
        self._last_id = chunk.request_id = request_id = self._last_id + 1
        pending = Pending(lane, chunk, request_id, num_steps, monotonic() + timeout, self._loop.create_future())
        is_free = lane.append(pending)
        self._pending[request_id] = pending
        if is_free:
            self._send(pending)
        if self._expiry is None:
            self._expiry = self._loop.call_later(_EXPIRY_SECONDS, self._expire)
        if self._runner is None:
            self._runner = self._loop.create_task(self._run())
        return pending.future

    async def close(self) -> None:
        """Ends the call; chunks without an answer fail with Unavailable."""
        self._is_closed = True
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
        if self._expiry is not None:
            self._expiry.cancel()
        self._fail_all(Unavailable("the client was closed"))

    def _send(self, pending: Pending) -> None:
        pending.is_sent = True
        self._outbox.append(pending)
        if self._wake is not None:
            self._wake.set_result(None)
            self._wake = None

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            await self._work()
            error = await self._serve(self._open_call(), backoff)
            if error.is_too_large and self._pending:
                self._blame_largest(error)
            elif not error.is_retriable:
                self._fail_all(error)
            await asyncio.sleep(backoff.next(error.retry_after))
            self._outbox = deque(self._pending.values())
            for pending in self._outbox:
                pending.is_sent = True

    async def _work(self) -> None:
        if not self._outbox:
            self._wake = self._loop.create_future()
            await self._wake

    async def _serve(self, call: Any, backoff: Backoff) -> ClientError:
        """Sends and receives until the call ends; returns why it did."""
        writer = self._loop.create_task(self._write(call))
        try:
            while (response := await call.read()) is not grpc.aio.EOF:
                backoff.reset()
                self._receive(response)
            return from_status(await call.code(), await call.details(), await call.trailing_metadata())
        except grpc.aio.AioRpcError as failure:
            return from_call(failure)
        finally:
            writer.cancel()
            call.cancel()
            self._wake = None

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
            lane = self._lanes.get(end.session_id)
            if lane is not None:
                lane.end(_END_REASONS.get(end.reason, "unknown"), end.position)
        for result in response.results:
            pending = self._pending.get(result.request_id)
            if pending is None:
                continue  # given up before its answer came
            if result.HasField("error"):
                self._failed(pending, from_result(result.error))
            else:
                del self._pending[result.request_id]
                pending.lane.answered(pending, result)

    def _failed(self, pending: Pending, error: ClientError) -> None:
        lane = pending.lane
        self._forget(lane.failed(pending, error, monotonic()))
        if lane.must_resend:
            self._loop.call_later(lane.retry_delay(error), self._resend, lane)

    def _resend(self, lane: Lane) -> None:
        if lane.must_resend:  # a reconnection may have been first
            for pending in lane.chunks:
                self._send(pending)

    def _expire(self) -> None:
        """Gives up chunks whose deadline has passed. One timer for all: a timer each would cost more than the chunk."""
        now = monotonic()
        for pending in [pending for pending in self._pending.values() if pending.deadline <= now]:
            if pending.request_id in self._pending:
                self._forget(pending.lane.expired(pending))
        self._expiry = self._loop.call_later(_EXPIRY_SECONDS, self._expire) if self._pending else None

    def _forget(self, given_up: Iterable[Pending]) -> None:
        for pending in given_up:
            del self._pending[pending.request_id]

    def _fail_all(self, error: ClientError) -> None:
        for pending in list(self._pending.values()):
            if pending.request_id in self._pending:
                self._forget(pending.lane.give_up(pending, error))

    def _blame_largest(self, error: ClientError) -> None:
        largest = max(self._pending.values(), key=lambda pending: pending.chunk.ByteSize())
        self._forget(largest.lane.give_up(largest, error))

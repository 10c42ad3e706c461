# ruff: noqa: ASYNC109 - a timeout spans retries, and is part of the request's meaning
"""The channel to one server, and single calls on it with retries."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from math import isnan
from time import monotonic
from typing import Any, TypeVar

import grpc

from conveyor.client.backoff import Backoff
from conveyor.client.errors import ClientError, DeadlineExceeded, InvalidArgument, Unavailable, from_call
from conveyor.client.patience import Patience
from conveyor.client.shards import Shards, metadata_of
from conveyor.v1 import sequence_service_pb2_grpc

Response = TypeVar("Response")

_STUB: Any = sequence_service_pb2_grpc.SequenceServiceStub  # generated without types

_CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    # Answers carry whatever outputs the caller asked for; the server bounds what it takes, not what it sends.
    ("grpc.max_receive_message_length", -1),
    # The first attempts to reconnect come quickly: a restart on the same host takes well under a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
]

# A single call may take long for good reasons: contexts are computed in it.
_QUIET_SECONDS = 5.0

# Searches at once. Of more, calls would time out behind each other's, and be given up and made again without end.
_MAX_SEARCHES = 16

# A year. gRPC takes a deadline that is too far away for one that has passed.
_LONGEST_SECONDS = 365 * 86_400.0


class Connection:
    """One channel. `timeout` is how many seconds a single call may take, retries included.

    Raises:
        InvalidArgument: the timeout is not a number, or there are no shards.
    """

    def __init__(self, address: str, timeout: float, num_shards: int) -> None:
        self.address = address
        self.shards = Shards(num_shards)
        self._timeout = _bounded(timeout)
        self._is_closed = False
        self._searches = asyncio.Semaphore(_MAX_SEARCHES)
        self.fenced_answers = 0  # answers that were dropped because their server had lost the session
        self.channel = grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self.stub: Any = _STUB(self.channel)

    def seconds(self, timeout: float | None) -> float:
        """How long a call may take: `timeout`, by default the connection's own."""
        return self._timeout if timeout is None else _bounded(timeout)

    def check_open(self) -> None:
        """Raises Unavailable if the connection was closed here."""
        if self._is_closed:
            raise Unavailable("the client is closed")

    async def call(
        self,
        method: Callable[..., Awaitable[Response]],
        request: Any,
        timeout: float | None = None,
        shard: str | None = None,
    ) -> Response:
        """Calls until it succeeds, fails for good, or `timeout` runs out. The request must be idempotent.

        A server that is silent for some seconds is asked again: the call may come to another. `shard` is the session's.

        Raises:
            ClientError: the last failure.
        """
        backoff, patience = Backoff(), Patience(_QUIET_SECONDS)
        deadline = monotonic() + self.seconds(timeout)
        metadata = metadata_of(shard)
        while True:
            self.check_open()
            seconds = min(deadline - monotonic(), patience.limit())
            try:
                return await method(request, timeout=max(seconds, 0.001), metadata=metadata)
            except grpc.aio.AioRpcError as failure:
                error = from_call(failure)
                learn(request, error)
            if isinstance(error, DeadlineExceeded) and monotonic() < deadline:
                patience.lose()
            else:
                await sleep_before_retry(error, backoff, deadline)

    @asynccontextmanager
    async def searching(self, deadline: float) -> AsyncIterator[None]:
        """Waits for its turn to look for a session along many ways.

        Raises:
            Unavailable: it did not come before the deadline.
        """
        try:
            async with asyncio.timeout(deadline - monotonic()):
                await self._searches.acquire()
        except TimeoutError:
            raise Unavailable("many other sessions are looked for") from None
        try:
            yield
        finally:
            self._searches.release()

    async def close(self) -> None:
        """Closes the channel; calls in flight are cancelled."""
        self._is_closed = True
        await self.channel.close()


def learn(request: Any, error: ClientError) -> None:
    """Has a request tell the session's epoch that its failure told: only who knows it may take the session."""
    message = getattr(request, "chunk", request)
    if error.epoch and "epoch" in message.DESCRIPTOR.fields_by_name:
        message.epoch = max(message.epoch, error.epoch)


async def sleep_before_retry(error: ClientError, backoff: Backoff, deadline: float) -> None:
    """Waits before the next attempt. Raises `error` if another is of no use, or would come after the deadline."""
    if not error.is_retriable:
        raise error
    await pause(error, backoff, deadline)


async def pause(error: ClientError, backoff: Backoff, deadline: float) -> None:
    """Waits before the next attempt. Raises `error` if that would come after the deadline."""
    delay = backoff.next(error.retry_after)
    if monotonic() + delay >= deadline:
        raise error
    await asyncio.sleep(delay)


def _bounded(timeout: float) -> float:
    if isnan(timeout):
        raise InvalidArgument("timeout: must be a number of seconds, got nan", field="timeout")
    return min(timeout, _LONGEST_SECONDS)

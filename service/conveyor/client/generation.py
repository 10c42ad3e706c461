"""Generated tokens as they come, over a connection that may break on the way."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from time import monotonic
from typing import Any

import grpc

from conveyor.client.backoff import Backoff
from conveyor.client.catch_up import catch_up, position_behind, resume
from conveyor.client.connection import Connection, pause
from conveyor.client.errors import (
    ClientError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ReplayLost,
    Unavailable,
    WrongPosition,
    from_call,
)
from conveyor.client.inputs import Tokens, tokens_from
from conveyor.client.lane import Lane
from conveyor.client.message import message_from
from conveyor.client.patience import Patience
from conveyor.client.results import GeneratedToken, Model, generated_tokens
from conveyor.client.shards import metadata_of
from conveyor.v1 import generate_pb2


def request_from(
    prompt: Tokens,
    model: Model,
    *,
    max_tokens: int,
    temperature: float | None,
    top_k: int,
    top_p: float | None,
    repetition_penalty: float | None,
    repetition_window: int,
    stop: Sequence[Tokens],
    seed: int | None,
    log_probabilities: int,
) -> generate_pb2.GenerateRequest:
    """A request without session and position.

    Raises:
        InvalidArgument: a field cannot be what is given.
    """
    return message_from(
        generate_pb2.GenerateRequest,
        tokens=tokens_from(prompt, model),
        max_tokens=max_tokens,
        sampling=message_from(
            generate_pb2.Sampling,
            "sampling.",
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            repetition_window=repetition_window,
        ),
        stop_sequences=[
            message_from(generate_pb2.TokenSequence, f"stop_sequences[{index}].", tokens=tokens_from(each, model))
            for index, each in enumerate(stop)
        ],
        seed=seed,
        top_k_log_probabilities=log_probabilities,
    )


class GenerationCall:
    """One generation of a session. Goes on where it was if the connection or the server is lost.

    `timeout` bounds the wait for each message, in seconds.
    """

    def __init__(
        self,
        connection: Connection,
        lane: Lane,
        model: Model,
        request: generate_pb2.GenerateRequest,
        timeout: float,
    ) -> None:
        self._connection = connection
        self._lane = lane
        self._model = model
        self._request = request
        self._timeout = timeout
        self._deadline = 0.0
        self._backoff, self._patience = Backoff(), Patience()
        self._behind: int | None = None  # where the session came back, if that is not where its client is
        self._is_started = self._is_lost = self._is_finished = False
        self._must_resume = False
        self._was_loose = lane.is_loose
        request.session_id = lane.session_id
        request.position = lane.next_position

    async def tokens(self) -> AsyncGenerator[GeneratedToken, None]:
        """Yields the tokens; the last carries the finish reason."""
        # Until the last token is read, the server may be further than it has told.
        self._lane.is_loose = True
        self._deadline = monotonic() + self._timeout
        while True:
            try:
                await self._go_back()
                async for message in self._messages():
                    self._advance(message)
                    for token in generated_tokens(message, self._model.vocabulary):
                        yield token
            except grpc.aio.AioRpcError as failure:
                error = from_call(failure)
            except ClientError as failure:
                error = failure
            else:
                return
            if self._is_finished:
                return
            await self._recover(error)

    async def _messages(self) -> AsyncIterator[generate_pb2.GenerateResponse]:
        self._connection.check_open()
        self._request.epoch = self._lane.epoch
        call: Any = self._connection.stub.Generate(self._request, metadata=metadata_of(self._lane.shard))
        try:
            while True:
                async with asyncio.timeout(self._seconds()):
                    message = await call.read()
                if message is grpc.aio.EOF:
                    return
                if not self._lane.sees(message.epoch):
                    self._connection.fenced_answers += 1
                    raise Unavailable("a server answered that had lost the session")
                yield message
        except TimeoutError:
            self._patience.lose()
            raise self._silence() from None
        finally:
            call.cancel()

    def _seconds(self) -> float:
        """How long to wait for the next message."""
        return min(self._patience.limit(len(self._request.tokens)), self._deadline - monotonic())

    def _silence(self) -> ClientError:
        if monotonic() < self._deadline:
            return Unavailable("the server is silent")
        return DeadlineExceeded("no token in time", position=self._lane.position)

    def _advance(self, message: generate_pb2.GenerateResponse) -> None:
        """Makes the request one for the tokens that are still to come."""
        request = self._request
        self._lane.drew(message.position, [*request.tokens, *message.tokens])
        self._lane.stored(message.durable_position)
        self._is_finished = bool(message.finish_reason)
        self._lane.is_loose = not self._is_finished
        request.position = message.position
        request.max_tokens -= len(message.tokens)
        request.num_generated += len(message.tokens)
        del request.tokens[:]
        self._is_started = True
        self._backoff.reset()
        self._patience.reset()
        self._deadline = monotonic() + self._timeout

    async def _go_back(self) -> None:
        """After a loss, has the session come to where its client is, wherever it is now."""
        lane, seconds = self._lane, self._deadline - monotonic()
        if self._must_resume:
            session = await resume(self._connection, lane, seconds, is_repeated=True)
            lane.sees(session.epoch)
            self._behind = session.position if session.position < lane.position else None
            self._must_resume = False
        if self._behind is not None:
            await catch_up(self._connection, lane, self._behind, self._deadline)
            self._behind = None

    async def _recover(self, error: ClientError) -> None:
        """Readies the next attempt, or raises `error` if none can succeed."""
        self._connection.check_open()
        now, error = monotonic(), self._lane.fate.explain(error)
        self._lane.sees(error.epoch)
        self._behind = position_behind(error, self._lane)
        if error.is_retriable:
            self._is_lost = True
            self._lane.lose(now)
        elif self._behind is None and not self._follows(error) and not self._may_be_back(error, now):
            self._settle(error)
            raise error
        is_stored = self._lane.epoch > 0
        self._must_resume = self._is_lost if is_stored else isinstance(error, NotFound)
        await pause(error, self._backoff, self._deadline)

    def _may_be_back(self, error: ClientError, now: float) -> bool:
        """True if what the error tells of may be the loss of a server, which another one can make good."""
        if isinstance(error, WrongPosition):
            # More was drawn than was read, and is not kept: the session can go back.
            return self._is_lost and self._lane.epoch > 0 and not isinstance(error, ReplayLost)
        fate, is_stored = self._lane.fate, self._lane.epoch > 0
        is_first = fate.is_first_doubt(error) and not is_stored
        if is_first:
            self._lane.suspect(now)
        return is_first or fate.is_doubtful(error, now, is_stored=is_stored)

    def _follows(self, error: ClientError) -> bool:
        """Goes to where the session is, if a generation before this one was left early."""
        if not isinstance(error, WrongPosition) or error.position is None or self._is_started or not self._was_loose:
            return False
        self._lane.settle(error.position)
        self._lane.is_loose, self._was_loose = True, False
        self._request.position = error.position
        return True

    def _settle(self, error: ClientError) -> None:
        """Leaves the lane as the error tells."""
        if isinstance(error, InvalidArgument | FailedPrecondition) and not self._is_started:
            self._lane.is_loose = self._was_loose  # refused before anything was consumed
        if isinstance(error, WrongPosition) and error.position is not None:
            self._lane.settle(error.position)

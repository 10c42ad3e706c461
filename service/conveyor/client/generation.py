"""Generated tokens as they come, over a connection that may break on the way."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from time import monotonic
from typing import Any

import grpc

from conveyor.client.backoff import Backoff
from conveyor.client.connection import Connection, sleep_before_retry
from conveyor.client.errors import (
    ClientError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    WrongPosition,
    from_call,
)
from conveyor.client.inputs import Tokens, tokens_from
from conveyor.client.lane import Lane
from conveyor.client.message import message_from
from conveyor.client.results import GeneratedToken, Model, generated_tokens
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
    """One generation of a session. Goes on where it was if the connection breaks and no token was lost with it.

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
        request.session_id = lane.session_id
        request.position = lane.next_position

    async def tokens(self) -> AsyncGenerator[GeneratedToken, None]:
        """Yields the tokens; the last carries the finish reason."""
        backoff = Backoff()
        deadline = monotonic() + self._timeout
        # Until the last token is read, the server may be further than it has told.
        self._lane.is_loose, was_loose = True, self._lane.is_loose
        while True:
            try:
                async for message in self._messages():
                    self._advance(message)
                    backoff.reset()
                    deadline = monotonic() + self._timeout
                    for token in generated_tokens(message, self._model.vocabulary):
                        yield token
            except grpc.aio.AioRpcError as failure:
                error = from_call(failure)
            else:
                return
            if isinstance(error, WrongPosition) and was_loose and error.position is not None:
                self._request.position, was_loose = error.position, False
                continue
            self._check_resumable(error, was_loose)
            await sleep_before_retry(error, backoff, deadline)

    async def _messages(self) -> AsyncIterator[generate_pb2.GenerateResponse]:
        self._connection.check_open()
        call: Any = self._connection.stub.Generate(self._request)
        try:
            while True:
                async with asyncio.timeout(self._timeout):
                    message = await call.read()
                if message is grpc.aio.EOF:
                    return
                yield message
        except TimeoutError:
            raise DeadlineExceeded("no token in time", position=self._lane.position) from None
        finally:
            call.cancel()

    def _advance(self, message: generate_pb2.GenerateResponse) -> None:
        """Makes the request one for the tokens that are still to come."""
        self._lane.position = self._lane.next_position = self._request.position = message.position
        self._lane.is_loose = not message.finish_reason
        self._request.max_tokens -= len(message.tokens)
        del self._request.tokens[:]

    def _check_resumable(self, error: ClientError, was_loose: bool) -> None:
        """Raises `error` if going on could miss a stop sequence."""
        if isinstance(error, NotFound):
            self._lane.check_open()
        if isinstance(error, InvalidArgument | FailedPrecondition):
            self._lane.is_loose = was_loose  # refused before anything was consumed
        if isinstance(error, WrongPosition) and error.position is not None:
            self._lane.settle(error.position)
        is_started = not self._request.tokens
        # The server matches a stop sequence within one call: one that spans two would be missed.
        if is_started and any(len(stop.tokens) > 1 for stop in self._request.stop_sequences):
            raise error

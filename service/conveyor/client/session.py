# ruff: noqa: ASYNC109 - a timeout spans retries, and is part of the request's meaning
"""One sequence on the server, advanced in steps. Its state stays there; the position is known on both sides."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

from conveyor.client.connection import Connection
from conveyor.client.errors import ClientError, NotFound
from conveyor.client.generation import GenerationCall, request_from
from conveyor.client.inputs import Inputs, Tokens, chunk_from, outputs_from, tokens_from
from conveyor.client.lane import Lane
from conveyor.client.message import message_from
from conveyor.client.results import GeneratedToken, Model, SessionInfo, StepResult, session_from
from conveyor.client.stream import Stream
from conveyor.v1 import session_pb2, step_pb2

# Of a long text: enough in flight to hide the round trip, few enough that other sessions have their turn.
CHUNK_STEPS = 512
CHUNKS_IN_FLIGHT = 4
# A longer prompt is cut. Servers take one of this length whole, unless they were told otherwise.
WHOLE_PROMPT_STEPS = 4096

_SCORING = step_pb2.Scoring()
_CLOSE_SECONDS = 5.0


class Session:
    """An open session. `async with` closes it at the end.

    Steps may be called without awaiting those before: they are taken in the order of the calls. A step whose caller is
    cancelled is taken all the same, and its answer dropped.
    """

    def __init__(self, connection: Connection, stream: Stream, lane: Lane, model: Model) -> None:
        self.model = model
        self._connection = connection
        self._stream = stream
        self._lane = lane

    @property
    def id(self) -> str:
        """Identifier of the session."""
        return self._lane.session_id

    @property
    def position(self) -> int:
        """Number of steps that the server has confirmed."""
        return self._lane.position

    async def step(
        self,
        data: Inputs,
        outputs: Sequence[str] = (),
        top_k: int = 0,
        last_only: bool = False,
        timeout: float | None = None,
    ) -> StepResult:
        """Consumes text, tokens or arrays `[steps, ...]`, all or none; so many steps of a model without inputs.

        Answers with the named outputs and the `top_k` highest-scoring tokens of each step, or of the last alone.
        `timeout` is in seconds, by default the client's.

        Raises:
            StepTimeout: no answer in time; the same input again is taken once.
            ClientError: anything else.
        """
        chunk, num_steps = chunk_from(self._lane.session_id, data, self.model)
        wanted = outputs_from(tuple(outputs), top_k, last_only)
        if wanted is not None:
            chunk.outputs.CopyFrom(wanted)
        seconds = self._connection.seconds(timeout)
        return StepResult(await self._stream.submit(self._lane, chunk, num_steps, seconds), self.model.vocabulary)

    async def score(self, data: Tokens, timeout: float | None = None) -> list[float]:
        """Consumes text or tokens; gives the natural logarithm of each token's probability given all before it.

        NaN for a token that nothing scored or generated came before: the first of a session. `timeout` is in seconds
        for each stretch of `CHUNK_STEPS` tokens, by default the client's.
        """
        results = await self._consume(tokens_from(data, self.model), timeout, scoring=_SCORING)
        return [score for result in results for score in result.log_probabilities]

    async def _consume(self, tokens: list[int], timeout: float | None, **want: Any) -> list[step_pb2.StepResult]:
        """Consumes tokens in chunks, some of them in flight at once."""
        seconds = self._connection.seconds(timeout)
        results: list[step_pb2.StepResult] = []
        in_flight: deque[asyncio.Future[step_pb2.StepResult]] = deque()
        try:
            for start in range(0, len(tokens), CHUNK_STEPS):
                if len(in_flight) == CHUNKS_IN_FLIGHT:
                    results.append(await in_flight.popleft())
                part = tokens[start : start + CHUNK_STEPS]
                chunk = message_from(step_pb2.Chunk, session_id=self.id, tokens=part, **want)
                in_flight.append(self._stream.submit(self._lane, chunk, len(part), seconds))
            while in_flight:
                results.append(await in_flight.popleft())
        finally:
            for future in in_flight:  # of a failure or a cancellation the caller hears once
                future.cancel()
        return results

    async def generate(
        self,
        prompt: Tokens = (),
        *,
        max_tokens: int = 100,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float | None = None,
        repetition_penalty: float | None = None,
        repetition_window: int = 0,
        stop: Sequence[Tokens] = (),
        seed: int | None = None,
        log_probabilities: int = 0,
        timeout: float | None = None,
    ) -> AsyncGenerator[GeneratedToken, None]:
        """Consumes the prompt and yields tokens as they come, consumed too; the last carries `finish_reason`.

        The options are those of `GenerateRequest` and `Sampling` in the protocol; None and 0 take its defaults. The
        prompt may be empty right after a generation or a score. Leaving early stops the server at the last token it
        had sent, which can be some further than those read. `timeout` bounds the wait for each token, in seconds.

        A prompt of more than `WHOLE_PROMPT_STEPS` tokens is consumed in chunks, and those that come before a failure
        stay consumed.
        """
        self._lane.check_open()
        before, last = _cut(tokens_from(prompt, self.model))
        request = request_from(
            last,
            self.model,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            repetition_window=repetition_window,
            stop=stop,
            seed=seed,
            log_probabilities=log_probabilities,
        )
        seconds = self._connection.seconds(timeout)
        await self._consume(before, timeout)
        call = GenerationCall(self._connection, self._lane, self.model, request, seconds)
        async with aclosing(call.tokens()) as tokens:
            async for token in tokens:
                yield token

    async def refresh(self) -> SessionInfo:
        """Asks the server for the session as it is, and takes its position. Nothing may be in flight."""
        self._lane.check_open()
        request = session_pb2.GetSessionRequest(session_id=self.id)
        response = await self._connection.call(self._connection.stub.GetSession, request)
        self._lane.settle(response.session.position)
        return session_from(response.session)

    async def close(self) -> None:
        """Ends the session and frees its state. Closing one that has ended does nothing."""
        request = session_pb2.CloseSessionRequest(session_id=self.id)
        try:
            await self._connection.call(self._connection.stub.CloseSession, request, _CLOSE_SECONDS)
        except NotFound:
            return
        finally:
            self._lane.end("closed", self._lane.position)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except ClientError:
            if error is None:
                raise


def _cut(prompt: list[int]) -> tuple[list[int], list[int]]:
    """What of a prompt to consume before a generation, and what to give it."""
    if len(prompt) <= WHOLE_PROMPT_STEPS:
        return [], prompt
    # The generation keeps more than its repetition penalty may look back at.
    return prompt[:-CHUNK_STEPS], prompt[-CHUNK_STEPS:]


class Opening:
    """A session that is being opened: `session = await ...` or `async with ... as session`."""

    def __init__(self, opening: Any) -> None:
        self._opening = opening
        self._session: Session | None = None

    def __await__(self) -> Generator[Any, None, Session]:
        session: Session = yield from self._opening.__await__()
        return session

    async def __aenter__(self) -> Session:
        self._session = await self._opening
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.__aexit__(kind, error, trace)

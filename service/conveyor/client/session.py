# ruff: noqa: ASYNC109 - a timeout spans retries, and is part of the request's meaning
"""One sequence on the server, advanced in steps. Its state stays there; the position is known on both sides."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

from conveyor.client.catch_up import call_at_position, resume
from conveyor.client.connection import Connection
from conveyor.client.durability import Durability, durability_message
from conveyor.client.errors import ClientError, NotFound
from conveyor.client.generation import GenerationCall, request_from
from conveyor.client.inputs import Inputs, Tokens, chunk_from, outputs_from, tokens_from
from conveyor.client.lane import Lane
from conveyor.client.message import message_from
from conveyor.client.opening import Opening, opened
from conveyor.client.results import GeneratedToken, Model, SessionInfo, StepResult, session_from
from conveyor.client.streams import Streams
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

    A session that is stored goes on by itself when its server is lost; every answer comes once and in order.
    """

    def __init__(self, connection: Connection, streams: Streams, lane: Lane, model: Model) -> None:
        self.model = model
        self._connection = connection
        self._streams = streams
        self._lane = lane

    @property
    def id(self) -> str:
        """Identifier of the session."""
        return self._lane.session_id

    @property
    def position(self) -> int:
        """Number of steps that the server has confirmed."""
        return self._lane.position

    @property
    def replayed_steps(self) -> int:
        """Number of steps that were sent again, because a server was lost before it had stored them."""
        return self._lane.replayed_steps

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
            ReplayLost: the session came back behind what was answered, and not all inputs since then are kept.
            ClientError: anything else.
        """
        chunk, num_steps, tokens = chunk_from(self._lane.session_id, data, self.model)
        wanted = outputs_from(tuple(outputs), top_k, last_only)
        if wanted is not None:
            chunk.outputs.CopyFrom(wanted)
        seconds = self._connection.seconds(timeout)
        answer = await self._streams.submit(self._lane, chunk, num_steps, tokens, seconds)
        return StepResult(answer, self.model.vocabulary)

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
                in_flight.append(self._streams.submit(self._lane, chunk, len(part), part, seconds))
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
        had sent, which can be some further than those read. `timeout` bounds the wait for each token, in seconds. If
        the connection or the server is lost, the text goes on where it was.

        A prompt of more than `WHOLE_PROMPT_STEPS` tokens is consumed in chunks, and those that come before a failure
        stay consumed.
        """
        self._lane.fate.check_open()
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
        """Asks the server for the session as it is, and takes its position. Nothing may be in flight.

        If it came back behind what was answered, the next step leads it back first.
        """
        self._lane.fate.check_open()
        session = await resume(self._connection, self._lane)
        self._lane.found(session.position, session.epoch)
        return session_from(session)

    def fork(
        self,
        session_id: str | None = None,
        *,
        seed: int | None = None,
        durability: Durability | str | None = None,
    ) -> Opening:
        """Opens a new session with the state of this one: `await` it, or `async with` it. Nothing may be in flight.

        `seed` and `durability` are this one's unless they are given. The two share nothing from here on.

        Raises:
            InvalidArgument: a field cannot be what is given.

        Raises, when awaited:
            AlreadyExists: the session id is in use.
            ResourceExhausted: the server holds as many sessions as it may.
        """
        self._lane.fate.check_open()
        request = message_from(
            session_pb2.ForkSessionRequest,
            session_id=self.id,
            # Of the same shard: only there is the state at hand.
            new_session_id=session_id or self._connection.shards.mint(self._lane.shard),
            seed=seed,
            durability=durability_message(durability),
        )
        return Opening(self._fork(request, is_minted=not session_id))

    async def _fork(self, request: session_pb2.ForkSessionRequest, is_minted: bool) -> "Session":
        lane, connection = self._lane, self._connection
        session, _ = await opened(
            connection,
            lambda: call_at_position(connection, lane, connection.stub.ForkSession, request),
            request.new_session_id,
            lane.shard,
            is_minted=is_minted,
        )
        return Session(connection, self._streams, self._streams.new_lane(session, lane.shard), self.model)

    async def export(self) -> bytes:
        """The session's state, sealed: `Client.import_session` opens a session from it. Nothing may be in flight."""
        self._lane.fate.check_open()
        request = session_pb2.ExportSessionRequest(session_id=self.id)
        export = self._connection.stub.ExportSession
        response: session_pb2.ExportSessionResponse = await call_at_position(
            self._connection, self._lane, export, request
        )
        return response.checkpoint

    async def close(self) -> None:
        """Ends the session and frees its state. Closing one that has ended does nothing."""
        request = session_pb2.CloseSessionRequest(session_id=self.id, epoch=self._lane.epoch)
        try:
            await self._connection.call(
                self._connection.stub.CloseSession, request, _CLOSE_SECONDS, shard=self._lane.shard
            )
        except NotFound:
            return
        finally:
            self._lane.end("closed", self._lane.position)
            self._streams.release(self._lane)

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

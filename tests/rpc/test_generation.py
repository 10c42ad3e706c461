"""Generation over a real connection."""

import asyncio
from typing import Any

import grpc
import numpy as np
import pytest

from conveyor.engine.work import Token
from conveyor.errors import ResourceExhausted
from conveyor.rpc.generation import Tokens
from conveyor.server import Server
from conveyor.telemetry.metrics import ModelMetrics
from conveyor.v1 import generate_pb2
from tests.rpc.requests import failure_of, logits, open_session, position_of, read_all, step, to_array, until

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def request(session: str, tokens: list[int], max_tokens: int = 8, **fields: Any) -> generate_pb2.GenerateRequest:
    """Asks for tokens."""
    return generate_pb2.GenerateRequest(session_id=session, tokens=tokens, max_tokens=max_tokens, **fields)


async def generate(stub: Any, *arguments: Any, **fields: Any) -> list[generate_pb2.GenerateResponse]:
    """Every message of a generation."""
    return [response async for response in stub.Generate(request(*arguments, **fields))]


def tokens_of(responses: list[generate_pb2.GenerateResponse]) -> list[int]:
    """All tokens."""
    return [token for response in responses for token in response.tokens]


GREEDY = generate_pb2.Sampling(temperature=0)


async def test_greedy_tokens_are_the_models_best(stub: Any) -> None:
    """At temperature 0 each token is the highest-scoring one after those before it, with its log-probability."""
    session, other = await open_session(stub), await open_session(stub)
    responses = await generate(stub, session, [1, 2], sampling=GREEDY, top_k_log_probabilities=3)
    tokens = tokens_of(responses)
    whole = to_array((await step(stub, other, [1, 2, *tokens[:-1]], outputs=logits())).outputs["logits"])[1:]
    alternatives = [a for response in responses for a in response.alternatives]

    assert tokens == whole.argmax(axis=1).tolist()
    assert [list(a.tokens) for a in alternatives] == np.argsort(-whole, axis=1)[:, :3].tolist()
    chosen = [value for response in responses for value in response.log_probabilities]
    assert chosen == pytest.approx([a.log_probabilities[0] for a in alternatives], abs=1e-5)
    assert responses[-1].position == 10
    assert [response.finish_reason for response in responses[:-1]] == [0] * (len(responses) - 1)
    assert responses[-1].finish_reason == generate_pb2.FINISH_REASON_LENGTH


async def test_the_seed_decides(stub: Any) -> None:
    """The same seed gives the same text, in company or alone; another gives another."""
    sessions = [await open_session(stub, seed=5) for _ in range(4)] + [await open_session(stub, seed=6)]
    texts = [tokens_of(await generate(stub, sessions[0], [1], 30))]
    together = (generate(stub, session, [1], 30) for session in sessions[1:])
    texts += [tokens_of(responses) for responses in await asyncio.gather(*together)]
    own = tokens_of(await generate(stub, await open_session(stub, seed=9), [1], 30, seed=5))

    assert texts[0] == texts[1] == texts[2] == texts[3] == own
    assert texts[4] != texts[0]


async def test_a_stop_sequence_ends_it(stub: Any) -> None:
    """The stop sequence is sent, consumed and last."""
    session, other = await open_session(stub), await open_session(stub)
    free = tokens_of(await generate(stub, session, [1], 12, sampling=GREEDY))
    stop = free[3:5]
    responses = await generate(stub, other, [1], 12, sampling=GREEDY, stop_sequences=[{"tokens": stop}])
    tokens = tokens_of(responses)

    first = next(end for end in range(2, 13) if free[end - 2 : end] == stop)
    assert tokens == free[:first]
    assert responses[-1].finish_reason == generate_pb2.FINISH_REASON_STOP
    assert responses[-1].position == 1 + first == await position_of(stub, other)


async def test_a_generation_goes_on_from_the_last(stub: Any) -> None:
    """Two short ones give the text of one long one."""
    session, other = await open_session(stub), await open_session(stub)
    whole = tokens_of(await generate(stub, session, [1], 10, sampling=GREEDY))
    parts = tokens_of(await generate(stub, other, [1], 4, sampling=GREEDY))
    parts += tokens_of(await generate(stub, other, [], 6, sampling=GREEDY, position=5))

    assert parts == whole


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tokens": []}, "tokens"),
        ({"tokens": [1, 20]}, "tokens[1]"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop_sequences": [{"tokens": [1]}, {}]}, "stop_sequences[1].tokens"),
        ({"stop_sequences": [{"tokens": [99]}]}, "stop_sequences[0].tokens[0]"),
        ({"top_k_log_probabilities": 21}, "top_k_log_probabilities"),
        ({"sampling": generate_pb2.Sampling(temperature=-1)}, "sampling.temperature"),
        ({"sampling": generate_pb2.Sampling(temperature=float("nan"))}, "sampling.temperature"),
        ({"sampling": generate_pb2.Sampling(top_k=-1)}, "sampling.top_k"),
        ({"sampling": generate_pb2.Sampling(top_p=0)}, "sampling.top_p"),
        ({"sampling": generate_pb2.Sampling(repetition_penalty=0)}, "sampling.repetition_penalty"),
        ({"sampling": generate_pb2.Sampling(repetition_window=257)}, "sampling.repetition_window"),
    ],
)
async def test_malformed_generations_are_refused(stub: Any, fields: dict[str, Any], field: str) -> None:
    """INVALID_ARGUMENT names the field, and the session stays where it was."""
    session = await open_session(stub)
    call = stub.Generate(request(**{"session": session, "tokens": [1], **fields}))
    failure = await failure_of(call.read())

    assert failure.code is INVALID
    assert failure.field == field
    assert await position_of(stub, session) == 0


async def test_other_refusals(stub: Any) -> None:
    """No session, a wrong position, a model without a vocabulary."""
    frames, session = await open_session(stub, model="frames"), await open_session(stub)
    unknown = await failure_of(stub.Generate(request("unknown", [1])).read())
    wrong = await failure_of(stub.Generate(request(session, [1], position=4)).read())
    unable = await failure_of(stub.Generate(request(frames, [1])).read())

    assert unknown.code is grpc.StatusCode.NOT_FOUND
    assert (wrong.code, wrong.position) == (grpc.StatusCode.OUT_OF_RANGE, "0")
    assert unable.code is grpc.StatusCode.FAILED_PRECONDITION


async def test_tokens_come_while_it_runs(server: Server, stub: Any) -> None:
    """They are sent as they come; another request of the session is ABORTED; cancelling stops it where it is."""
    session = await open_session(stub)
    call = stub.Generate(request(session, [1], 1_000_000))
    first = await call.read()
    busy = await failure_of(step(stub, session, [1]))
    call.cancel()
    await until(lambda: server.engines.of_model("tiny").stats().num_waiting == 0)
    stopped = await position_of(stub, session)

    assert first.position >= 2
    assert first.finish_reason == 0
    assert busy.code is grpc.StatusCode.ABORTED
    assert busy.retry_seconds is not None
    assert first.position <= stopped < 1_000_000
    assert (await step(stub, session, [1])).position == stopped + 1


async def test_a_slow_reader_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that nobody takes are counted as they come: at the bound the generation is stopped, and counted once."""
    monkeypatch.setattr("conveyor.rpc.generation.MAX_UNREAD_TOKENS", 3)
    metrics, stops = ModelMetrics(), []
    tokens = Tokens(metrics, lambda: stops.append(True))
    for token in range(5):
        tokens.put(None, Token("a", token + 1, token, -1.0))
    tokens.flush()

    assert [token.token for token in await tokens.take()] == [0, 1, 2]
    with pytest.raises(ResourceExhausted):
        await tokens.take()
    await asyncio.sleep(0)
    assert stops == [True]
    assert metrics.num_refused == {"slow_reader": 1}


async def test_a_deadline_stops_it(server: Server, stub: Any) -> None:
    """The tokens that were made stay consumed, and the call is DEADLINE_EXCEEDED."""
    session = await open_session(stub)
    failure = await failure_of(read_all(stub.Generate(request(session, [1], 1_000_000), timeout=0.3), []))
    await until(lambda: server.engines.of_model("tiny").stats().num_waiting == 0)

    assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert 1 <= await position_of(stub, session) < 1_000_000

"""Sessions that begin where another is."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import numpy as np
import pytest

from conveyor.v1 import generate_pb2, session_pb2
from tests.rpc.conftest import Peer
from tests.rpc.requests import failure_of, get, logits, open_session, resume, step, to_array
from tests.rpc.test_durability import ASYNC, NONE, SYNC
from tests.rpc.test_generation import generate, tokens_of

Pair = tuple[Peer, Peer]
Join = Callable[..., Awaitable[Peer]]
TEXT = [3, 1, 4, 1, 5, 9, 2, 6]


async def fork(stub: Any, session_id: str, **fields: Any) -> session_pb2.Session:
    """Makes a new session of another."""
    request = session_pb2.ForkSessionRequest(session_id=session_id, **fields)
    return (await stub.ForkSession(request)).session


async def open_at(stub: Any, position: int, **fields: Any) -> None:
    """Opens session `a` and lets it consume so much of the text."""
    await open_session(stub, "a", **fields)
    if position:
        await step(stub, "a", TEXT[:position])


async def test_both_go_on_from_there(pair: Pair) -> None:
    """Each as if it were alone; what one does is nothing to the other."""
    stub = pair[0].stub
    await open_at(stub, 5)
    session = await fork(stub, "a", new_session_id="b", position=5)
    assert (session.session_id, session.position, session.epoch) == ("b", 5, 1)
    await step(stub, "a", [7, 7, 7])
    forked = await step(stub, "b", TEXT[5:], position=5, outputs=logits())
    whole = await step(stub, await open_session(stub), TEXT, outputs=logits())

    np.testing.assert_allclose(
        to_array(forked.outputs["logits"]), to_array(whole.outputs["logits"])[5:], atol=1e-4, rtol=1e-4
    )
    assert [(await get(stub, name)).position for name in "ab"] == [8, 8]


async def test_a_fork_of_nothing(pair: Pair) -> None:
    """A session that has not run has a fork that has not run."""
    stub = pair[0].stub
    await open_at(stub, 0)
    await fork(stub, "a", new_session_id="b")

    assert (await step(stub, "b", TEXT, position=0)).position == len(TEXT)


async def test_the_seed_is_the_same_or_its_own(pair: Pair) -> None:
    """With the same one, both draw the same text from their unrun last token on; with another, another."""
    stub = pair[0].stub
    await open_session(stub, "a", seed=7)
    await generate(stub, "a", [1, 2], 5)
    await fork(stub, "a", new_session_id="same")
    await fork(stub, "a", new_session_id="other", seed=8)
    texts = [tokens_of(await generate(stub, name, [], 20)) for name in ("a", "same", "other")]

    assert texts[0] == texts[1] != texts[2]
    assert [(await get(stub, name)).seed for name in ("same", "other")] == [7, 8]


@pytest.mark.parametrize("own", [NONE, ASYNC, SYNC])
async def test_durability_is_the_same_or_its_own(pair: Pair, own: session_pb2.Durability) -> None:
    """Whatever the server's default is."""
    stub = pair[0].stub
    await open_at(stub, 3, durability=own)
    await fork(stub, "a", new_session_id="same")
    for name, durability in (("none", NONE), ("async", ASYNC), ("sync", SYNC)):
        assert (await fork(stub, "a", new_session_id=name, durability=durability)).durability.mode == durability.mode
    session = await get(stub, "same")

    assert session.durability == (await get(stub, "a")).durability
    assert session.HasField("durable_position") == (own is not NONE)


async def test_a_fork_is_stored_as_it_is_made(pair: Pair) -> None:
    """Another server takes it up where it began."""
    a, b = pair
    await open_at(a.stub, 3, durability=SYNC)
    await fork(a.stub, "a", new_session_id="b")

    assert (await resume(b.stub, "b")).position == 3
    assert (await step(b.stub, "b", TEXT[3:], position=3)).position == len(TEXT)


async def test_a_stored_session_can_be_forked(pair: Pair) -> None:
    """Any server takes it up for that."""
    a, b = pair
    await open_at(a.stub, 3, durability=SYNC)
    session = await fork(b.stub, "a", new_session_id="b", position=3)

    assert session.position == 3
    assert (await get(b.stub, "a")).epoch == 2


async def test_kept_answers_are_not_copied(pair: Pair) -> None:
    """Nor are the tokens of its last generation: the fork has been asked nothing yet."""
    stub = pair[0].stub
    await open_at(stub, 3, seed=7)
    await fork(stub, "a", new_session_id="b")
    late = await failure_of(step(stub, "b", TEXT[:3], position=0))
    await generate(stub, "a", [1], 4, position=3)
    await fork(stub, "a", new_session_id="c")
    drawn = await failure_of(generate(stub, "c", [1], 4, position=3))

    assert (late.code, late.position) == (grpc.StatusCode.OUT_OF_RANGE, "3")
    assert (drawn.code, drawn.position) == (grpc.StatusCode.OUT_OF_RANGE, "8")
    assert (await step(stub, "a", TEXT[:1])).position == 9


async def test_an_id_is_minted(pair: Pair) -> None:
    """If the client has none."""
    stub = pair[0].stub
    await open_at(stub, 2)
    session = await fork(stub, "a")

    assert len(session.session_id) == 32
    assert (await get(stub, session.session_id)).position == 2


async def test_what_cannot_be_forked(pair: Pair) -> None:
    """Each refusal has its code, and makes no session."""
    a, b = pair
    code = grpc.StatusCode
    await open_at(a.stub, 3, durability=SYNC)
    await open_session(b.stub, "theirs")
    cases: list[tuple[dict[str, Any], grpc.StatusCode, str | None]] = [
        ({"session_id": "nobody"}, code.NOT_FOUND, None),
        ({"session_id": "a", "position": 2}, code.OUT_OF_RANGE, None),
        ({"session_id": "a", "position": 4}, code.OUT_OF_RANGE, None),
        ({"session_id": "a", "new_session_id": "a"}, code.ALREADY_EXISTS, None),
        ({"session_id": "a", "new_session_id": "theirs"}, code.ALREADY_EXISTS, None),
        ({"session_id": "a", "new_session_id": "with space"}, code.INVALID_ARGUMENT, "new_session_id"),
        ({"session_id": "a", "durability": {"every_steps": -1}}, code.INVALID_ARGUMENT, "durability.every_steps"),
    ]
    for fields, expected, field in cases:
        failure = await failure_of(fork(a.stub, **fields))
        assert (failure.code, failure.field) == (expected, field), fields
        assert failure.position == ("3" if expected is code.OUT_OF_RANGE else None)
    sessions = await a.stub.ListSessions(session_pb2.ListSessionsRequest())

    assert [session.session_id for session in sessions.sessions] == ["a"]


async def test_a_full_server_makes_none(join: Join) -> None:
    """RESOURCE_EXHAUSTED with a delay; the other goes on."""
    stub = (await join(max_sessions=1)).stub
    await open_at(stub, 3)
    failure = await failure_of(fork(stub, "a"))

    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failure.retry_seconds is not None
    assert (await step(stub, "a", TEXT[3:4], position=3)).position == 4


async def test_without_a_store(stub: Any) -> None:
    """A session is forked as ever, if its fork is not to be stored."""
    await open_at(stub, 3)
    failure = await failure_of(fork(stub, "a", durability=SYNC))

    assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
    assert (await fork(stub, "a", new_session_id="b")).position == 3


async def test_a_generation_under_way_is_forked_where_it_is(pair: Pair) -> None:
    """Among its tokens, and goes on to the same text."""
    stub = pair[0].stub
    await open_session(stub, "a", seed=7)
    call = stub.Generate(generate_pb2.GenerateRequest(session_id="a", tokens=[1, 2], max_tokens=400))
    text = list((await call.read()).tokens)
    session = await fork(stub, "a", new_session_id="b")
    while len(text) < 400:
        text += (await call.read()).tokens
    drawn = session.position - 2
    rest = tokens_of(await generate(stub, "b", [], 400 - drawn)) if drawn < 400 else []

    assert 0 < drawn <= 400
    assert rest == text[drawn:]

"""A client whose servers are lost: stored sessions go on by themselves, and nothing is silently reset."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from conveyor.client import (
    Client,
    Durability,
    GeneratedToken,
    NotFound,
    ReplayLost,
    Session,
    StepTimeout,
    connect,
)
from tests.client.cluster import Cluster
from tests.client.serving import SYMBOLS
from tests.client.test_stream import is_close, logits_of, progressed

TEXT = "abcdefghijklmnopqrs" * 4
EVERY_8 = Durability("async", every_steps=8)
NEVER = Durability("async", every_steps=1_000_000, every=1000.0)


@pytest.fixture
async def cluster(models: Path, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with Cluster(models, tmp_path) as cluster:
        yield cluster


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    async with connect(cluster.address) as client:
        yield client


async def read(session: Session, text: str) -> bytes:
    """The logits of a text, read in chunks of three, some of them in flight together."""
    parts = [text[start : start + 3] for start in range(0, len(text), 3)]
    answers = b""
    for start in range(0, len(parts), 4):
        steps = [session.step(part, outputs=["logits"]) for part in parts[start : start + 4]]
        answers += b"".join([result["logits"].data for result in await asyncio.gather(*steps)])
    return answers


async def drawn(session: Session, prompt: str, **options: Any) -> list[GeneratedToken]:
    """A whole generation."""
    return [token async for token in session.generate(prompt, **options)]


@pytest.mark.parametrize("durability", [EVERY_8, NEVER, "sync"])
async def test_sessions_go_on_elsewhere(cluster: Cluster, client: Client, durability: Durability | str) -> None:
    """With the server lost again and again, every session gets every answer once, in order and right."""
    sessions = [await client.open("letters", durability=durability) for _ in range(8)]
    texts = [TEXT[start:] + TEXT[:start] for start in range(8)]
    reading = asyncio.gather(*map(read, sessions, texts))
    for num_steps, number in zip(range(60, 8 * len(TEXT), 90), cycle((1, 0)), strict=False):
        await progressed(sessions, num_steps)
        cluster.fail_over(number)
    answers = await reading

    for session, answer, text in zip(sessions, answers, texts, strict=True):
        assert session.position == len(TEXT)
        assert is_close(answer, await logits_of(client, text))
    if durability == NEVER:  # else it depends on how fast the store was
        assert any(session.replayed_steps for session in sessions)


async def test_scores_are_the_same_after_a_loss(cluster: Cluster, client: Client) -> None:
    """The pending token of a score is there again, wherever the session came back."""
    async with client.open("letters", durability="none") as whole:
        expected = await whole.score(TEXT + TEXT)
    session = await client.open("letters", durability=NEVER)
    scores = await session.score(TEXT)
    cluster.fail_over(1)
    scores += await session.score(TEXT)

    assert scores[1:] == pytest.approx(expected[1:], abs=1e-4)
    assert session.replayed_steps == len(TEXT)


async def test_arrays_are_sent_again(cluster: Cluster, client: Client) -> None:
    """What was given as arrays leads to the same state as tokens do."""
    frames = [[0.1 * i, 0.2, 0.3] for i in range(12)]
    async with client.open("frames") as whole:
        expected = (await whole.step(frames, outputs=["y"]))["y"].data
    session = await client.open("frames", durability=NEVER)
    answers = b""
    for start in range(0, 12, 4):
        answers += (await session.step(frames[start : start + 4], outputs=["y"]))["y"].data
        cluster.fail_over(start % 8 == 0)

    assert is_close(answers, expected)
    assert session.replayed_steps == 4 + 8


async def test_more_lost_answers_than_are_kept(cluster: Cluster, client: Client) -> None:
    """Where a server does not keep so many answers, the session goes back and gives them all again."""
    session = await client.open("letters", durability=EVERY_8)
    await session.step("a")
    cluster.proxy.is_mute = True
    steps = [asyncio.ensure_future(session.step(letter, outputs=["logits"])) for letter in TEXT]
    while cluster.servers[0].engines.of_session(session.id).get(session.id).position <= len(TEXT):
        await asyncio.sleep(0.01)
    cluster.fail_over(0)
    answers = b"".join([result["logits"].data for result in await asyncio.gather(*steps)])

    assert is_close(answers, (await logits_of(client, "a" + TEXT))[4 * len(SYMBOLS) :])


@pytest.mark.parametrize("durability", [EVERY_8, NEVER, "sync"])
async def test_a_generation_goes_on_elsewhere(cluster: Cluster, client: Client, durability: Durability | str) -> None:
    """A text that is interrupted between two characters continues with the same ones, and so does the next."""
    options: dict[str, Any] = {"max_tokens": 60, "repetition_penalty": 1.3, "log_probabilities": 2}
    async with client.open("letters", seed=5, durability="none") as whole:
        expected = [*await drawn(whole, "abc", **options), *await drawn(whole, "d", **options)]
    session = await client.open("letters", seed=5, durability=durability)
    tokens: list[GeneratedToken] = []
    for prompt in ("abc", "d"):
        async for token in session.generate(prompt, **options):
            tokens.append(token)
            if len(tokens) % 17 == 0:
                cluster.fail_over(len(tokens) % 2)

    assert [(token.token, token.position) for token in tokens] == [(token.token, token.position) for token in expected]
    assert [token.finish_reason for token in tokens] == [token.finish_reason for token in expected]
    assert all(len(token.alternatives) == 2 for token in tokens)
    assert session.position == 3 + 60 + 1 + 60


@pytest.mark.parametrize("durability", [Durability("async", every_steps=1), NEVER, "sync", "none"])
@pytest.mark.parametrize("length", [2, 3])
async def test_a_stop_sequence_may_span_a_loss(
    cluster: Cluster, client: Client, durability: Durability | str, length: int
) -> None:
    """Text ends where it should, though the stop sequence began before the connection was lost."""
    async with client.open("letters", seed=9, durability="none") as whole:
        text = [token.text for token in await drawn(whole, "abc", max_tokens=40)]
    end = next(end for end in range(8, 40) if "".join(text).find("".join(text[end - length : end])) == end - length)
    stop = "".join(text[end - length : end])
    session = await client.open("letters", seed=9, durability=durability)
    written = ""
    async for token in session.generate("abc", max_tokens=40, stop=[stop]):
        written += token.text
        if len(written) == end - 1:
            cluster.fail_over(0 if durability == "none" else 1)

    assert written == "".join(text[:end])
    assert token.finish_reason == "stop"
    assert session.position == 3 + end


async def test_a_step_follows_a_generation_that_is_sent_again(cluster: Cluster, client: Client) -> None:
    """A finished generation leads to the same state when it is sent again: its last token stays pending."""
    async with client.open("letters", seed=5, durability="none") as whole:
        await drawn(whole, "abc", max_tokens=20)
        expected = await whole.step("def", outputs=["logits"])
    session = await client.open("letters", seed=5, durability=NEVER)
    await drawn(session, "abc", max_tokens=20)
    cluster.fail_over(1)
    result = await session.step("def", outputs=["logits"])

    assert is_close(result["logits"].data, expected["logits"].data)
    assert session.replayed_steps == 23


async def test_what_was_forgotten_is_missed(cluster: Cluster) -> None:
    """Beyond the bound a session goes on; after a loss that needs what was dropped, it says so and where it is."""
    async with connect(cluster.address, replay_bytes=4096) as client:
        session = await client.open("letters", durability=NEVER)
        for _ in range(4):
            await session.step(TEXT * 3)
        cluster.fail_over(1)

        with pytest.raises(ReplayLost) as lost:
            await session.step("a")
        assert lost.value.position == session.position == 0
        assert (await session.step("abc")).position == 3


async def test_what_was_not_stored_is_lost(cluster: Cluster, client: Client) -> None:
    """A session without durability does not start anew on another server."""
    session = await client.open("letters", durability="none")
    await session.step("abc")
    cluster.fail_over(1)

    with pytest.raises(NotFound):
        await session.step("d", timeout=0.5)


async def test_a_lost_session_may_be_back_in_a_moment(cluster: Cluster, client: Client) -> None:
    """A server that knows nothing of a session is not believed at once: the right one may only be paused."""
    session = await client.open("letters", durability="none")
    await session.step("abc")
    cluster.fail_over(1)
    step = asyncio.ensure_future(session.step("d"))
    await asyncio.sleep(0.2)
    assert not step.done()
    cluster.fail_over(0)

    assert (await step).position == 4


async def test_answers_may_be_ahead_of_a_checkpoint(cluster: Cluster, client: Client, tmp_path: Path) -> None:
    """With SYNC one checkpoint may let several answers out; a client that got some of them goes back, and on again."""
    session = await client.open("letters", durability="sync")
    answers = [await session.step(letter, outputs=["logits"]) for letter in "ab"]
    with sqlite3.connect(tmp_path / "sessions.db") as store:  # as if the second had been let out by one further on
        store.execute("DELETE FROM checkpoints WHERE position = 2")
    cluster.fail_over(1)
    answers.append(await session.step("c", outputs=["logits"]))

    assert is_close(b"".join(answer["logits"].data for answer in answers), await logits_of(client, "abc"))
    assert session.replayed_steps == 1


async def test_an_orderly_stop_loses_nothing(cluster: Cluster, client: Client) -> None:
    """A server that stops in order hands every session on, stored or not, in the middle of its work."""
    sessions = [await client.open("letters", durability=durability) for durability in ("none", NEVER, "sync")]
    reading = asyncio.gather(*(read(session, TEXT) for session in sessions))
    await progressed(sessions, 60)
    await cluster.stop(0)
    answers = await reading

    for answer in answers:
        assert is_close(answer, await logits_of(client, TEXT))
    assert [session.replayed_steps for session in sessions] == [0, 0, 0]


async def test_answers_that_an_orderly_stop_lost_come_from_elsewhere(cluster: Cluster, client: Client) -> None:
    """A server that stops before its answers have arrived hands these on with a session that is not stored."""
    sessions = [await client.open("letters", durability="none", seed=3) for _ in range(2)]
    for session in sessions:
        await session.step("abc")
    cluster.proxy.is_mute = True
    answers = [asyncio.ensure_future(sessions[0].step(text, outputs=["logits"])) for text in ("de", "f")]
    writing = asyncio.ensure_future(drawn(sessions[1], "d", max_tokens=5))
    engine = cluster.servers[0].engines.of_model("letters")
    while [engine.get(session.id).position for session in sessions] != [6, 9]:
        await asyncio.sleep(0.005)
    await cluster.stop(0)
    cluster.fail_over(1)

    logits = b"".join([(await answer)["logits"].data for answer in answers])
    assert is_close(logits, (await logits_of(client, "abcdef"))[-3 * 4 * len(SYMBOLS) :])
    async with client.open("letters", durability="none", seed=3) as whole:
        await whole.step("abc")
        expected = await drawn(whole, "d", max_tokens=5)
    assert [token.token for token in await writing] == [token.token for token in expected]


async def test_a_session_is_attached_to_where_it_is_not(cluster: Cluster, client: Client) -> None:
    """A stored session can be gone on with by a client that has never seen it, on another server."""
    session = await client.open("letters", durability="sync")
    await session.step("abc")
    await cluster.stop(0)
    async with connect(cluster.servers[1].address) as other:
        attached = await other.session(session.id)
        assert attached.position == 3
        result = await attached.step("d", outputs=["logits"])

        assert is_close(result["logits"].data, (await logits_of(other, "abcd"))[-4 * len(SYMBOLS) :])


async def test_a_client_comes_back_to_what_another_led_on(cluster: Cluster, client: Client) -> None:
    """Who attaches again takes the session where it is by now, not where this client had left it."""
    session = await client.open("letters", durability="sync")
    await session.step("abc")
    async with connect(cluster.address) as other:
        attached = await other.session(session.id)
        for letter in "defghi":
            await attached.step(letter)

    again = await client.session(session.id)

    assert again.position == 9
    assert (await again.step("j")).position == 10


async def test_a_refresh_does_not_go_back(cluster: Cluster, client: Client) -> None:
    """Looking at a session that came back behind its client does not make the client forget what it was given."""
    session = await client.open("letters", durability=NEVER)
    first = await session.step("abc", outputs=["logits"])
    cluster.fail_over(1)

    assert (await session.refresh()).position == 0
    assert session.position == 3
    second = await session.step("d", outputs=["logits"])
    assert is_close(first["logits"].data + second["logits"].data, await logits_of(client, "abcd"))


async def test_nobody_there_is_a_timeout(cluster: Cluster, client: Client) -> None:
    """A step that finds no server in its time says that it may have been taken."""
    session = await client.open("letters")
    await session.step("a")
    cluster.proxy.is_deaf = True

    with pytest.raises(StepTimeout):
        await session.step("b", timeout=0.3)

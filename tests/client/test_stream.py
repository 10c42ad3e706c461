"""The shared stream: coalescing, order, and what happens when the connection breaks."""

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conveyor.client import (
    Aborted,
    Client,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Session,
    SessionEnded,
    StepTimeout,
    WrongPosition,
    connect,
)
from conveyor.v1 import step_pb2
from tests.client.serving import SYMBOLS, Proxy, ServerProcess, serving

TEXT = "abcdefghijklmnopqrs" * 4


async def logits_of(client: Client, text: str) -> bytes:
    """The logits of an unbroken run."""
    async with client.open("letters") as session:
        return (await session.step(text, outputs=["logits"]))["logits"].data


async def read_out(session: Session, text: str) -> bytes:
    """The logits of a run that is cut to characters."""
    return b"".join([(await session.step(character, outputs=["logits"]))["logits"].data for character in text])


def sent(client: Client) -> list[int]:
    """The number of chunks in each message that the client's stream, not yet begun, will have sent."""
    lengths: list[int] = []
    open_call = client._connection.stub.Stream

    def open_counted(**options: Any) -> Any:
        call = open_call(**options)
        write = call.write

        async def count(message: step_pb2.StreamRequest) -> None:
            lengths.append(len(message.chunks))
            await write(message)

        call.write = count
        return call

    client._connection.stub.Stream = open_counted
    return lengths


@contextmanager
def nothing_unheard() -> Iterator[None]:
    """Fails if a failure is left that nobody has heard of; asyncio would print it."""
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
    yield
    gc.collect()
    # gRPC tells of its own there: its one socket wakes every loop of the process, and some find nothing to read.
    assert [message for message in told if "never retrieved" in message] == []


def is_close(left: bytes, right: bytes) -> bool:
    """True if both hold the same float32 logits, within rounding."""
    a, b = (memoryview(each).cast("f").tolist() for each in (left, right))
    return len(a) == len(b) and all(abs(x - y) < 1e-4 for x, y in zip(a, b, strict=True))


async def reached(client: Client, session_id: str, position: int) -> None:
    """Waits until the server has a session at this position."""
    while (await client.session(session_id)).position < position:
        pass


async def progressed(sessions: list[Session], num_steps: int) -> None:
    """Waits until the sessions have so many answers together."""
    while sum(session.position for session in sessions) < num_steps:
        await asyncio.sleep(0)


async def test_chunks_of_many_sessions_share_messages(client: Client) -> None:
    """Sessions that step at once need far fewer messages than chunks."""
    sessions = [await client.open("letters") for _ in range(50)]
    lengths = sent(client)

    for _ in range(4):
        await asyncio.gather(*(session.step("a") for session in sessions))

    assert sum(lengths) == 200
    assert len(lengths) <= 20
    await asyncio.gather(*(session.close() for session in sessions))


async def test_a_lone_session_does_not_wait(client: Client) -> None:
    """Each chunk of a lone session is its own message: nothing waits for company."""
    async with client.open("letters") as session:
        lengths = sent(client)
        for _ in range(5):
            await session.step("a")

        assert lengths == [1] * 5


async def test_pipelined_steps_are_taken_in_order(client: Client) -> None:
    """Steps that do not wait for each other are taken in the order of the calls."""
    async with client.open("letters") as session:
        results = await asyncio.gather(*(session.step(letter, outputs=["logits"]) for letter in TEXT))

        assert [result.position for result in results] == list(range(1, len(TEXT) + 1))
    assert is_close(b"".join(result["logits"].data for result in results), await logits_of(client, TEXT))


async def test_a_refused_step_fails_those_behind_it(client: Client) -> None:
    """What was pipelined behind a refused step is not taken, and the session goes on from before it."""
    async with client.open("letters") as session:
        steps = [session.step("a"), session.step([99]), session.step("b"), session.step("c")]
        results = await asyncio.gather(*steps, return_exceptions=True)

        assert [type(result) for result in results[1:]] == [InvalidArgument, Aborted, Aborted]
        assert (await session.step("b")).position == 2


async def test_a_cancelled_step_is_taken(client: Client) -> None:
    """A step whose caller is cancelled counts, so that the steps behind it stay right."""
    async with client.open("letters") as session:
        step = asyncio.ensure_future(session.step("a"))
        await asyncio.sleep(0)
        step.cancel()

        assert (await session.step("b")).position == 2


async def test_a_score_that_fails_is_told_once(client: Client) -> None:
    """A score of many chunks that fails raises once, and the chunks behind the failure do not complain."""
    with nothing_unheard():
        async with client.open("letters") as session:
            with pytest.raises(InvalidArgument):
                await session.score([99] * 2000)


async def test_a_score_that_is_cancelled_is_quiet(client: Client, proxy: Proxy) -> None:
    """A score whose caller is cancelled leaves no failure behind when its client is closed."""
    with nothing_unheard():
        async with connect(proxy.address) as cut_off:
            session = await cut_off.open("letters")
            proxy.is_mute = True
            score = asyncio.ensure_future(session.score(TEXT * 100))
            await reached(client, session.id, 2048)
            score.cancel()
            await asyncio.gather(score, return_exceptions=True)
            del score  # its traceback holds the answers that it waited for
        await (await client.session(session.id)).close()


async def test_a_foreign_step_is_a_wrong_position(client: Client, server: ServerProcess) -> None:
    """A session that another client has moved is at another position, which the error tells and the session takes."""
    async with client.open("letters") as session, connect(server.address) as other:
        foreign = await other.session(session.id)
        await foreign.step("abc")

        with pytest.raises(WrongPosition) as refusal:
            await session.step("dd")
        assert refusal.value.position == 3
        assert (await session.step("d")).position == 4


async def test_a_session_closed_elsewhere_has_ended(client: Client, server: ServerProcess) -> None:
    """The news that a session has ended reaches the client that steps it, with the reason."""
    session = await client.open("letters")
    await session.step("a")
    async with connect(server.address) as other:
        await (await other.session(session.id)).close()

    with pytest.raises(SessionEnded) as ended:
        await session.step("b")
    assert ended.value.reason == "closed"


async def test_an_idle_session_has_ended(client: Client) -> None:
    """A session that idles too long ends with that reason."""
    session = await client.open("letters", idle_timeout=0.2)
    await session.step("a")
    async with asyncio.timeout(10):
        while await client.sessions("letters"):
            pass

    with pytest.raises(SessionEnded) as ended:
        await session.step("b")
    assert ended.value.reason == "idle"


async def test_a_lost_answer_is_given_again(client: Client, proxy: Proxy) -> None:
    """A step that was taken before the connection broke is answered after it, and taken once."""
    async with connect(proxy.address) as cut_off, cut_off.open("letters") as session:
        first = await session.step("abc", outputs=["logits"])
        proxy.is_mute = True
        step = asyncio.ensure_future(session.step("def", outputs=["logits"]))
        await reached(client, session.id, 6)
        assert not step.done()
        proxy.is_mute = False
        proxy.cut()

        second = await step
        assert second.position == 6
        assert is_close(first["logits"].data + second["logits"].data, await logits_of(client, "abcdef"))
        assert (await session.refresh()).position == 6


async def test_pipelined_steps_that_were_lost_are_sent_again_in_order(client: Client, proxy: Proxy) -> None:
    """Steps that never arrived are sent again over the next connection, each once and in order."""
    async with connect(proxy.address) as cut_off, cut_off.open("letters") as session:
        await session.step("a")
        proxy.is_deaf = True
        steps = [asyncio.ensure_future(session.step(letter, outputs=["logits"])) for letter in TEXT]
        await asyncio.sleep(0.05)
        assert not any(step.done() for step in steps)
        proxy.is_deaf = False
        proxy.cut()

        results = await asyncio.gather(*steps)
    assert [result.position for result in results] == list(range(2, len(TEXT) + 2))
    answers = b"".join(result["logits"].data for result in results)
    assert is_close(answers, (await logits_of(client, "a" + TEXT))[4 * len(SYMBOLS) :])


async def test_sessions_survive_cuts(client: Client, proxy: Proxy) -> None:
    """With the connection cut again and again, every session gets every answer once, in order and right."""
    async with connect(proxy.address) as cut_off:
        sessions = [await cut_off.open("letters") for _ in range(8)]
        texts = [TEXT[start:] + TEXT[:start] for start in range(8)]
        reading = asyncio.gather(*map(read_out, sessions, texts))
        for num_steps in range(100, 8 * len(TEXT), 100):
            await progressed(sessions, num_steps)
            proxy.cut()
        answers = await reading

        assert [session.position for session in sessions] == [len(TEXT)] * 8
    for answer, text in zip(answers, texts, strict=True):
        assert is_close(answer, await logits_of(client, text))
    for session in sessions:
        await (await client.session(session.id)).close()


async def test_a_generation_goes_on_after_a_cut(client: Client, proxy: Proxy) -> None:
    """A generation whose request was lost with the connection is made on the next one."""
    async with client.open("letters", seed=5) as whole:
        expected = [token.token async for token in whole.generate("abc", max_tokens=20)]
    async with connect(proxy.address) as cut_off, cut_off.open("letters", seed=5) as session:
        proxy.is_deaf = True
        asyncio.get_running_loop().call_later(0.05, reconnect, proxy)

        assert [token.token async for token in session.generate("abc", max_tokens=20)] == expected


async def test_a_generation_that_is_cut_is_never_wrong(client: Client, proxy: Proxy) -> None:
    """Cut between two tokens, a generation goes on with the right ones, or says that some were lost."""
    async with client.open("letters", seed=5) as whole:
        expected = [token.token async for token in whole.generate("abc", max_tokens=300)]
    async with connect(proxy.address) as cut_off, cut_off.open("letters", seed=5) as session:
        tokens: list[int] = []
        with suppress(WrongPosition):
            async for token in session.generate("abc", max_tokens=300):
                tokens.append(token.token)
                if len(tokens) == 5:
                    proxy.cut()
            assert len(tokens) == 300

        assert tokens == expected[: len(tokens)]
        assert (await session.step("a")).position >= 3 + len(tokens)


async def test_a_generation_can_be_left_in_its_prompt(client: Client, proxy: Proxy) -> None:
    """Whoever leaves a generation while its long prompt is consumed goes on from the chunks that were on their way."""
    async with connect(proxy.address) as cut_off, cut_off.open("letters") as session:
        proxy.is_mute = True
        token = asyncio.ensure_future(anext(session.generate(TEXT * 100)))
        await reached(client, session.id, 2048)
        token.cancel()
        await asyncio.gather(token, return_exceptions=True)
        reconnect_answers(proxy)

        assert (await session.step("a")).position == 2049


async def test_a_giant_chunk_is_refused_alone(models: Path) -> None:
    """A chunk larger than the server takes fails, and the steps of other sessions go on."""
    with serving(models, "--max-message-bytes", "65536") as server:
        async with connect(server.address) as client, client.open("frames") as giant, client.open("letters") as small:
            frames = np.zeros((100_000, 3), np.float32)
            results = await asyncio.gather(giant.step(frames), small.step("a"), return_exceptions=True)

            assert isinstance(results[0], ResourceExhausted)
            assert not isinstance(results[1], BaseException)
            assert (await small.step("b")).position == 2
            assert (await giant.step(frames[:3])).position == 3


def reconnect(proxy: Proxy) -> None:
    """Ends the silence with a new connection."""
    proxy.is_deaf = False
    proxy.cut()


async def test_a_step_that_timed_out_is_taken_once(client: Client, proxy: Proxy) -> None:
    """After a timeout the same input again gives the answer of the step that was taken; other input is refused."""
    async with connect(proxy.address) as cut_off, cut_off.open("letters") as session:
        await session.step("a")
        proxy.is_mute = True
        with pytest.raises(StepTimeout) as timeout:
            await session.step("b", outputs=["logits"], timeout=0.3)
        assert timeout.value.position == 1
        reconnect_answers(proxy)

        with pytest.raises(WrongPosition):
            await session.step("c")
        session_info = await session.refresh()
        assert session_info.position == 2


async def test_the_same_step_after_a_timeout_is_its_retry(client: Client, proxy: Proxy) -> None:
    """The kept answer comes for the same input, and the session is one step further and not two."""
    async with connect(proxy.address) as cut_off, cut_off.open("letters") as session:
        await session.step("a")
        proxy.is_mute = True
        with pytest.raises(StepTimeout):
            await session.step("b", outputs=["logits"], timeout=0.3)
        reconnect_answers(proxy)

        result = await session.step("b", outputs=["logits"])
        assert result.position == (await session.refresh()).position == 2


def reconnect_answers(proxy: Proxy) -> None:
    """Lets answers through again, on a new connection."""
    proxy.is_mute = False
    proxy.cut()


async def test_a_restarted_server_does_not_know_the_session(models: Path, server: ServerProcess) -> None:
    """After a restart the session is gone, and the client says so instead of starting it anew."""
    with serving(models) as first:
        async with Proxy(first.address) as proxy, connect(proxy.address) as client:
            session = await client.open("letters")
            await session.step("a")
            first.process.kill()
            first.process.wait()
            proxy.redirect(server.address)

            with pytest.raises(NotFound):
                await session.step("b", timeout=1)
            async with client.open("letters") as another:
                assert (await another.step("b")).position == 1


async def test_a_drained_server_tells_its_sessions(models: Path) -> None:
    """A session of a server that has stopped waits for another, and says why if there is none."""
    with serving(models) as server:
        async with connect(server.address) as client:
            session = await client.open("letters")
            await session.step("a")
            server.process.terminate()
            await asyncio.to_thread(server.process.wait)

            with pytest.raises(StepTimeout, match="drained"):
                await session.step("b", timeout=0.5)


async def test_a_session_that_was_not_stored_has_ended(models: Path) -> None:
    """A server that has stopped without a store leaves nothing, and the next one says so for the reason it gave."""
    with serving(models, "--store", "none") as first, serving(models, "--store", "none") as second:
        async with Proxy(first.address) as proxy, connect(proxy.address) as client:
            session = await client.open("letters")
            await session.step("a")
            first.process.terminate()
            await asyncio.to_thread(first.process.wait)
            proxy.redirect(second.address)

            with pytest.raises(SessionEnded) as ended:
                await session.step("b", timeout=1)
            assert ended.value.reason == "drained"

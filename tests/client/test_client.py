"""The client against a real server."""

import asyncio
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conveyor.client import (
    AlreadyExists,
    Client,
    GeneratedToken,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    SessionEnded,
    Tensor,
    Unavailable,
    WrongPosition,
    connect,
)
from conveyor.client.session import WHOLE_PROMPT_STEPS
from tests.client.serving import SYMBOLS, ServerProcess, serving

TEXT = "abcdefghijklmnopqrs" * 40
HUGE = 2**40  # more than an int32 holds


async def test_models_are_listed(client: Client) -> None:
    """Every loaded version is listed with its signature; one alone also has its vocabulary."""
    listed = await client.models()
    letters = await client.model("letters")

    assert [model.name for model in listed] == ["frames", "letters"]
    assert letters.vocabulary is not None
    assert "".join(letters.vocabulary.symbols) == SYMBOLS
    assert letters.takes_tokens
    assert not listed[0].takes_tokens


async def test_an_unknown_model_is_not_found(client: Client) -> None:
    """Opening a model that is not loaded says so."""
    with pytest.raises(NotFound):
        await client.open("nothing")


async def test_a_session_is_opened_and_closed(client: Client) -> None:
    """Leaving the block closes the session on the server."""
    async with client.open("letters", session_id="mine", seed=7, idle_timeout=60) as session:
        listed = await client.sessions("letters")
        assert [(info.session_id, info.seed) for info in listed] == [("mine", 7)]
        assert session.id == "mine"

    assert await client.sessions("letters") == []
    with pytest.raises(SessionEnded):
        await session.step("a")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("seed", -1),
        *(("idle_timeout", seconds) for seconds in (-0.5, 0, math.inf, math.nan, 1e30)),
        ("max_lifetime", -0.5),
    ],
)
async def test_an_opening_that_cannot_be_names_its_field(client: Client, option: str, value: float) -> None:
    """An option of a session that cannot be what is given is refused by its name."""
    options: dict[str, Any] = {option: value}

    with pytest.raises(InvalidArgument) as refusal:
        await client.open("letters", **options)
    assert refusal.value.field == option
    assert refusal.value.message.startswith(f"{option}: ")


async def test_an_id_in_use_is_refused(client: Client) -> None:
    """A client's own id can be open only once."""
    async with client.open("letters", session_id="twice"):
        with pytest.raises(AlreadyExists):
            await client.open("letters", session_id="twice")


async def test_an_id_may_be_used_again(client: Client) -> None:
    """A new session of an id whose last one was closed starts anew, though the old object is still there."""
    old = await client.open("letters", session_id="again")
    await old.step("abc")
    await old.close()

    async with client.open("letters", session_id="again") as session:
        assert (await session.step("a")).position == 1
    with pytest.raises(SessionEnded):
        await old.step("d")


async def test_text_tokens_and_arrays_are_the_same_steps(client: Client) -> None:
    """Text, ids and an array of ids give the same logits."""
    tokens = [SYMBOLS.index(character) for character in "face"]
    answers = []
    for data in ("face", tokens, tuple(tokens), np.array(tokens)):
        async with client.open("letters") as session:
            answers.append((await session.step(data, outputs=["logits"]))["logits"])

    assert len({answer.data for answer in answers}) == 1
    assert answers[0].shape == (4, len(SYMBOLS))


@pytest.mark.parametrize("token", [np.int64(3), np.array(3)])
async def test_a_numpy_scalar_is_one_token(client: Client, token: Any) -> None:
    """One id may be a scalar of NumPy's."""
    async with client.open("letters") as session, client.open("letters") as plain:
        result = await session.step(token, outputs=["logits"])

        assert result["logits"].data == (await plain.step(3, outputs=["logits"]))["logits"].data
        assert len(await session.score(token)) == 1


async def test_top_tokens_have_text_and_probability(client: Client) -> None:
    """The highest-scoring tokens are those of the logits, best first, with their text."""
    async with client.open("letters") as session:
        result = await session.step("ab", outputs=["logits"], top_k=3)
        logits = result["logits"].numpy()[-1].astype(float)

    best = result.top_tokens[-1]
    probabilities = logits - np.log(np.exp(logits).sum())
    assert [top.token for top in best] == list(np.argsort(-logits)[:3])
    assert [top.text for top in best] == [SYMBOLS[top.token] for top in best]
    assert [top.log_probability for top in best] == pytest.approx(probabilities[[top.token for top in best]], abs=1e-5)


async def test_last_only_answers_one_step(client: Client) -> None:
    """With `last_only` only the last step is answered."""
    async with client.open("letters") as session:
        result = await session.step("abc", outputs=["logits"], top_k=1, last_only=True)

    assert result["logits"].shape == (1, len(SYMBOLS))
    assert len(result.top_tokens) == 1
    assert result.position == session.position == 3


async def test_features_come_as_arrays_lists_or_tensors(client: Client) -> None:
    """A model of feature frames takes numpy arrays, nested lists and Tensors, by name or alone."""
    frames = np.arange(12, dtype=np.float32).reshape(4, 3) / 10
    answers = []
    for data in (frames, frames.tolist(), {"features": frames}, {"features": Tensor.from_array(frames)}):
        async with client.open("frames") as session:
            answers.append((await session.step(data, outputs=["y"]))["y"].tolist())

    assert answers[1:] == answers[:-1]
    assert np.shape(answers[0]) == (4, 5)


async def test_score_gives_each_tokens_log_probability(client: Client) -> None:
    """A long score, cut and pipelined, equals the logits' log-softmax; the first token has no prediction."""
    async with client.open("letters") as scored, client.open("letters") as stepped:
        scores = await scored.score(TEXT)
        logits = (await stepped.step(TEXT, outputs=["logits"]))["logits"].numpy().astype(float)

    tokens = [SYMBOLS.index(character) for character in TEXT]
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert len(scores) == len(TEXT)
    assert math.isnan(scores[0])
    assert scores[1:] == pytest.approx([expected[i, token] for i, token in enumerate(tokens[1:])], abs=1e-4)


async def test_the_same_seed_gives_the_same_text(client: Client) -> None:
    """Text depends on the seed and not on what else runs."""

    async def text(seed: int) -> str:
        async with client.open("letters") as session:
            return "".join([token.text async for token in session.generate("abc", max_tokens=30, seed=seed)])

    first, second, other = await text(1), await text(1), await text(2)
    assert first == second != other
    assert len(first) == 30


async def test_generation_tells_why_it_ended(client: Client) -> None:
    """The last token alone carries the finish reason, and positions count on from the prompt."""
    async with client.open("letters") as session:
        tokens = [token async for token in session.generate("ab", max_tokens=5, log_probabilities=2)]

        assert [token.finish_reason for token in tokens] == [None] * 4 + ["length"]
        assert [token.position for token in tokens] == [3, 4, 5, 6, 7]
        assert session.position == 7
        assert all(len(token.alternatives) == 2 for token in tokens)

        stop = tokens[0].text
        greedy = [token async for token in session.generate(max_tokens=500, stop=[stop, "b", "c"])]
        assert greedy[-1].finish_reason == "stop"


async def test_a_long_prompt_is_consumed_in_chunks(client: Client) -> None:
    """A prompt longer than the server takes at once is continued like one that was stepped before."""
    prompt = (TEXT * 7)[: WHOLE_PROMPT_STEPS + 1]
    async with client.open("letters") as session, client.open("letters") as stepped:
        tokens = [token async for token in session.generate(prompt, max_tokens=5, temperature=0)]
        await stepped.step(prompt[:4000])
        expected = [token async for token in stepped.generate(prompt[4000:], max_tokens=5, temperature=0)]

    assert [token.position for token in tokens] == [len(prompt) + 1 + i for i in range(5)]
    assert [token.token for token in tokens] == [token.token for token in expected]


async def test_a_generation_can_be_left_early(client: Client) -> None:
    """Whoever leaves a generation goes on with the session from where the server stopped."""
    async with client.open("letters") as session:
        generation = session.generate("ab", max_tokens=4000)
        async for token in generation:
            if token.position == 10:
                break
        await generation.aclose()

        result = await session.step("c", top_k=1)
        assert result.position >= 11
        assert (await session.refresh()).position == result.position


async def test_a_refused_generation_changes_nothing(client: Client, server: ServerProcess) -> None:
    """After a generation that was refused, a foreign step is still noticed."""
    async with client.open("letters") as session, connect(server.address) as other:
        with pytest.raises(InvalidArgument):
            [_ async for _ in session.generate("a", temperature=-1)]
        await (await other.session(session.id)).step("abc")

        with pytest.raises(WrongPosition):
            await session.step("a")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"seed": -1}, "seed"),
        ({"max_tokens": HUGE}, "max_tokens"),
        ({"top_k": HUGE}, "sampling.top_k"),
        ({"log_probabilities": HUGE}, "top_k_log_probabilities"),
        ({"stop": ["a", [1.5]]}, "stop_sequences[1].tokens"),
        ({"prompt": [1.5]}, "tokens"),
        ({"prompt": None}, "tokens"),
    ],
)
async def test_a_generation_that_cannot_be_names_its_field(client: Client, options: dict[str, Any], field: str) -> None:
    """An option that no request can hold is refused by its name, and takes nothing."""
    async with client.open("letters") as session:
        with pytest.raises(InvalidArgument) as refusal:
            [_ async for _ in session.generate(**{"prompt": "a", **options})]
        assert refusal.value.field == field
        assert (await session.refresh()).position == 0


async def test_a_session_is_attached_to_by_id(client: Client, server: ServerProcess) -> None:
    """Another client goes on where the first one was."""
    async with client.open("letters") as session:
        await session.step("abc")
        async with connect(server.address) as other:
            attached = await other.session(session.id)
            assert attached.position == 3
            assert (await attached.step("d")).position == 4


async def test_bad_input_names_its_field(client: Client) -> None:
    """A refused step carries the field, takes nothing, and the session goes on."""
    async with client.open("letters") as session:
        with pytest.raises(InvalidArgument) as refusal:
            await session.step([1, 2, 99])
        assert refusal.value.field is not None
        assert "tokens" in refusal.value.field
        assert (await session.step("a")).position == 1


@pytest.mark.parametrize("data", [None, [1.5], 1.5, np.float64(1.5), [None], [2**70], [[1, 2]]])
async def test_what_is_no_token_is_refused(client: Client, data: Any) -> None:
    """Steps and scores of anything but text and ids are refused, and take nothing."""
    async with client.open("letters") as session:
        for refused in (session.step, session.score):
            with pytest.raises(InvalidArgument) as refusal:
                await refused(data)
            assert refusal.value.field == "tokens"
        assert (await session.step("a")).position == 1


async def test_a_wish_that_cannot_be_names_its_field(client: Client) -> None:
    """A number that the wish of a step cannot hold is refused by its name."""
    async with client.open("letters") as session:
        with pytest.raises(InvalidArgument) as refusal:
            await session.step("a", top_k=HUGE)
        assert refusal.value.field == "outputs.top_k"


async def test_text_needs_a_vocabulary(client: Client) -> None:
    """Text for a model without a vocabulary is refused before anything is sent."""
    async with client.open("frames") as session:
        with pytest.raises(InvalidArgument, match="vocabulary"):
            await session.score("abc")


async def test_nobody_there_is_unavailable() -> None:
    """A call to a closed port fails once its time is up."""
    async with connect("127.0.0.1:1", timeout=0.2) as client:
        with pytest.raises(Unavailable):
            await client.models()


async def test_what_is_too_large_is_not_sent_again(models: Path) -> None:
    """A call that is larger than the server takes fails at once and not when its time is up."""
    zeros = np.zeros(100_000, np.float32)
    with serving(models, "--max-message-bytes", "65536") as server:
        async with (
            connect(server.address, timeout=60) as client,
            client.open("letters") as session,
            asyncio.timeout(20),
        ):
            with pytest.raises(ResourceExhausted):
                await client.open("letters", contexts={"zeros": zeros})
            with pytest.raises(ResourceExhausted):
                [_ async for _ in session.generate("a", stop=[[1] * 100_000])]


@pytest.mark.parametrize("seconds", [math.inf, 1e30])
async def test_a_timeout_may_be_endless(server: ServerProcess, seconds: float) -> None:
    """However long calls may take, they are answered."""
    async with connect(server.address, timeout=seconds) as client, client.open("letters") as session:
        assert (await session.step("a", timeout=seconds)).position == 1
        assert len(await session.score("a", timeout=seconds)) == 1
        assert len([token async for token in session.generate(max_tokens=1, timeout=seconds)]) == 1


async def test_a_timeout_is_a_number(client: Client, server: ServerProcess) -> None:
    """A timeout that is not a number is refused by its name, of a client and of a step."""
    async with client.open("letters") as session:
        for refused in (lambda: connect(server.address, timeout=math.nan), lambda: session.step("a", timeout=math.nan)):
            with pytest.raises(InvalidArgument) as refusal:
                await refused()
            assert refusal.value.field == "timeout"


async def test_a_closed_client_is_unavailable(client: Client, server: ServerProcess) -> None:
    """Every call of a client that was closed, and of its sessions, says so."""
    async with connect(server.address) as closed:
        session = await closed.open("letters")

    async def generate() -> list[GeneratedToken]:
        return [token async for token in session.generate("a")]

    for call in (
        closed.models,
        lambda: closed.open("letters"),
        lambda: session.step("a"),
        lambda: session.score("a"),
        session.refresh,
        generate,
    ):
        with pytest.raises(Unavailable, match="the client is closed"):
            await call()
    await (await client.session(session.id)).close()


async def test_a_step_behind_an_empty_one_is_taken(client: Client) -> None:
    """What is refused for being empty does not take what was called after it with it."""
    async with client.open("letters") as session:
        refused, taken = await asyncio.gather(session.step([]), session.step([1, 2]), return_exceptions=True)
        assert isinstance(refused, InvalidArgument)
        assert not isinstance(taken, BaseException)
        assert (taken.position, (await session.step([3])).position) == (2, 3)

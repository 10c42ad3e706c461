"""The referee agrees with a server that is right, and with none that is wrong."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bench.server import Server
from chaos.referee import TOLERANCE, Record, Referee, difference

from conveyor.client import GeneratedToken, Session, connect

MODELS = Path(__file__).parents[2] / "models"
SEED = 5
TOKENS = [20, 41, 63, 2, 70]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server.conveyor(MODELS) as server:
        yield server


@pytest.fixture
async def session(server: Server) -> AsyncIterator[Session]:
    async with connect(server.address) as client, client.open(seed=SEED) as session:
        yield session


@pytest.fixture(scope="module")
def referee() -> Referee:
    return Referee(MODELS / "shakespeare" / "1" / "model.onnx")


async def generate(session: Session, prompt: list[int], temperature: float) -> list[GeneratedToken]:
    return [token async for token in session.generate(prompt, max_tokens=30, temperature=temperature)]


async def test_right_answers_pass(session: Session, referee: Referee) -> None:
    """Outputs, best tokens, scores and drawn tokens of one session agree with the model run alone."""
    record = referee.begin()

    differences = [
        record.scored(TOKENS, await session.score(TOKENS)),
        record.stepped(TOKENS, (await session.step(TOKENS, outputs=["logits"]))["logits"].numpy()),
        record.ranked(TOKENS, (await session.step(TOKENS, top_k=3, last_only=True)).top_tokens),
        record.scored(TOKENS, await session.score(TOKENS)),
        record.scored(TOKENS, await session.score(TOKENS)),
        record.generated([], await generate(session, [], 0.7), SEED, 0.7),
        record.generated(TOKENS, await generate(session, TOKENS, 1.3), SEED, 1.3),
    ]

    assert max(differences) < TOLERANCE
    assert record.position == session.position == 7 * len(TOKENS) - len(TOKENS) + 60


async def test_a_state_that_is_behind_is_found(session: Session, referee: Referee) -> None:
    """A session that was not given a chunk answers otherwise than one that was, in every form."""
    result = await session.step(TOKENS, outputs=["logits"])
    assert behind(referee).stepped(TOKENS, result["logits"].numpy()) > TOLERANCE

    ranked = await session.step(TOKENS, top_k=3, last_only=True)
    assert behind(referee).ranked(TOKENS, ranked.top_tokens) > TOLERANCE

    await session.score(TOKENS)
    assert behind(referee).scored(TOKENS, await session.score(TOKENS)) > TOLERANCE


def behind(referee: Referee) -> Record:
    """A record that has taken a chunk which the session has not."""
    record = referee.begin()
    record.scored(TOKENS[:2], [0.0, 0.0])
    return record


async def test_a_token_that_was_not_drawn_is_found(session: Session, referee: Referee) -> None:
    """Another seed, another temperature, a missing token: none of them passes."""
    drawn = await generate(session, TOKENS, 0.7)

    assert referee.begin().generated(TOKENS, drawn, SEED, 0.7) < TOLERANCE
    assert referee.begin().generated(TOKENS, drawn, SEED + 1, 0.7) > TOLERANCE
    assert referee.begin().generated(TOKENS, drawn, SEED, 1.3) > TOLERANCE
    assert referee.begin().generated(TOKENS, drawn[1:], SEED, 0.7) > TOLERANCE
    assert referee.begin().generated(TOKENS, [replace(drawn[0], position=9)], SEED, 0.7) > TOLERANCE


def test_nan_equals_nan_alone() -> None:
    """A score that is missing on one side only differs, as does another number of scores."""
    nan = float("nan")

    assert difference([nan, 1.0], [nan, 1.5]) == 0.5
    assert difference([nan], [1.0]) == difference([1.0], [nan]) == difference([1.0], [1.0, 1.0]) == float("inf")

"""The example of beam search, against every continuation that there is."""

import importlib.util
import itertools
from pathlib import Path
from types import ModuleType

import pytest

from conveyor.client import connect
from tests.client.serving import SYMBOLS, ServerProcess

EXAMPLE = Path(__file__).parents[2] / "examples" / "beam_search.py"
PROMPT = "abc"


@pytest.fixture(scope="module")
def beam_search() -> ModuleType:
    spec = importlib.util.spec_from_file_location("beam_search", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_enough_beams_find_the_best(beam_search: ModuleType, server: ServerProcess) -> None:
    """With a beam for every symbol, the best of all texts of two symbols is found, with its probability."""
    async with connect(server.address) as client:
        beam = await beam_search.search(client, PROMPT, len(SYMBOLS), 2, "letters")
        scores = {}
        for pair in itertools.product(range(len(SYMBOLS)), repeat=2):
            async with client.open("letters", durability="none") as session:
                await session.score(PROMPT)
                scores["".join(SYMBOLS[token] for token in pair)] = sum(await session.score(list(pair)))
        assert await client.sessions("letters") == []

    assert beam.text == max(scores, key=scores.__getitem__)
    assert beam.score == pytest.approx(scores[beam.text], abs=1e-4)


async def test_one_beam_takes_the_likeliest_token(beam_search: ModuleType, server: ServerProcess) -> None:
    """A single beam is what a generation without temperature writes, and more are at least as likely."""
    async with connect(server.address) as client, client.open("letters") as session:
        expected = [token async for token in session.generate(PROMPT, max_tokens=8, temperature=0)]
        one = await beam_search.search(client, PROMPT, 1, 8, "letters")
        many = await beam_search.search(client, PROMPT, 6, 8, "letters")

    assert one.text == "".join(token.text for token in expected)
    assert many.score >= one.score == pytest.approx(sum(token.log_probability for token in expected), abs=1e-4)

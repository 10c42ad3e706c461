"""Models that others made, in all the shapes that there are, through gRPC: each session is answered as if alone."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import pytest_asyncio

from conveyor.client import Client, InvalidArgument, connect
from conveyor.graph.proposal import propose
from conveyor.server import start_server
from conveyor.settings import Settings
from conveyor.signature import Signature
from tests.foreign import (
    SHAPES,
    expected_sums,
    make_loop,
    make_old_gru,
    make_rated,
    make_stateless,
    make_sums,
    make_vague,
    save_foreign,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

NUM_SESSIONS = 4
CUTS = ((7,), (1, 3, 3), (2, 1, 1, 1, 2))


def name_of(batch: int | None, time: int | None, dtype: str, has_initial: bool) -> str:
    return f"batch-{batch}-time-{time}-{dtype}-{'given' if has_initial else 'zero'}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """A client of a server of every shape's model, with room for two sessions of each at a time."""
    folder: Path = tmp_path_factory.mktemp("shapes")
    for batch, time, dtype, has_initial in SHAPES:
        proto, signature = make_sums(batch, time, dtype, has_initial=has_initial)
        save_foreign(folder / name_of(batch, time, dtype, has_initial) / "1", proto, signature)
    rated = make_rated()
    save_foreign(folder / "rated" / "1", rated, Signature.from_json(propose(rated).json))
    save_foreign(folder / "vague" / "1", *make_vague())
    save_foreign(folder / "loop" / "1", make_loop())
    save_foreign(folder / "stateless" / "1", make_stateless())
    split = save_foreign(folder / "split" / "1", make_old_gru(9))
    onnx.save_model(onnx.load(split), split, save_as_external_data=True, location="weights.bin", size_threshold=0)
    settings = Settings(models=folder, port=0, metrics_port=0, num_threads=1, num_slots=2, max_batch=2)
    async with await start_server(settings) as server, connect(server.address) as client:
        yield client


@pytest.mark.parametrize(("batch", "time", "dtype", "has_initial"), SHAPES)
async def test_a_shape(batch: int | None, time: int | None, dtype: str, has_initial: bool, client: Client) -> None:
    """Interleaved, spilled and in odd chunks, every session has its own sums, from its model's initial state on."""
    name, rng = name_of(batch, time, dtype, has_initial), np.random.default_rng(1)
    shape = (await client.model(name)).inputs[0].shape

    async def run(cuts: tuple[int, ...]) -> None:
        steps = rng.integers(-9, 10, (sum(cuts), *shape)).astype(np.float32)
        parts, start = [], 0
        async with client.open(name) as session:
            for length in cuts:
                parts.append((await session.step(steps[start : start + length], ["sums"]))["sums"].numpy())
                start += length
        np.testing.assert_array_equal(np.concatenate(parts), expected_sums(steps, has_initial=has_initial))

    await asyncio.gather(*(run(CUTS[number % len(CUTS)]) for number in range(NUM_SESSIONS)))


async def test_a_graph_that_declares_little(client: Client) -> None:
    """Lengths of 0, symbols that say nothing and missing shapes stand in nobody's way."""

    async def run(number: int) -> None:
        steps = np.full((5, 3), number, np.float32)
        async with client.open("vague") as session:
            answers = [await session.step(part, ["sums"]) for part in (steps[:1], steps[1:])]
        sums = np.concatenate([answer["sums"].numpy() for answer in answers])
        np.testing.assert_array_equal(sums, expected_sums(steps, has_initial=False))

    await asyncio.gather(*map(run, range(3)))


async def test_constants(client: Client) -> None:
    """Sessions have the model's value or their own, and are stepped beside others that have another."""
    rng = np.random.default_rng(2)

    async def run(rate: int | None) -> None:
        x, more = (rng.integers(-9, 10, (5, 3)).astype(np.float32) for _ in range(2))
        contexts = {} if rate is None else {"rate": np.array(rate)}
        async with client.open("rated", contexts=contexts) as session:
            answers = [
                await session.step({"x": x[i : i + 1], "more": more[i : i + 1]}, ["y", "flips"]) for i in range(5)
            ]
        factor = 2 if rate in (None, 2) else 1
        expected = factor * x.cumsum(axis=0) + more
        np.testing.assert_array_equal(np.concatenate([answer["y"].numpy() for answer in answers]), expected)
        assert [bool(answer["flips"].tolist()[0]) for answer in answers] == [True, False, True, False, True]

    await asyncio.gather(*map(run, (None, 1, 2, 3, None, 1)))


async def test_constants_are_told(client: Client) -> None:
    """A client sees that it may leave them out, and is refused one of the wrong form."""
    (rate,) = (await client.model("rated")).contexts

    assert (rate.name, rate.shape, rate.is_optional) == ("rate", (), True)
    with pytest.raises(InvalidArgument, match=r"contexts\[rate\]: expected int64 \[\], got float32 \[\]"):
        await client.open("rated", contexts={"rate": np.float32(2)})


async def test_loops(client: Client) -> None:
    """A loop's body that reads what lies outside of it is run for each session of a batch."""

    async def run(number: int) -> None:
        x = np.full((4, 2), number, np.float32)
        async with client.open("loop") as session:
            answer = await session.step(x, ["y"])
        np.testing.assert_array_equal(answer["y"].numpy(), -3 * x.cumsum(axis=0))

    await asyncio.gather(*map(run, range(3)))


async def test_no_state(client: Client) -> None:
    """A model without states answers each step for itself, those of many callers together."""
    weight = np.arange(6, dtype=np.float32).reshape(3, 2)

    async def run(number: int) -> None:
        x = np.full((4, 3), number, np.float32)
        async with client.open("stateless") as session:
            answer = await session.step(x, ["y"])
        np.testing.assert_array_equal(answer["y"].numpy(), x @ weight)

    assert (await client.model("stateless")).states == ()
    await asyncio.gather(*map(run, range(4)))


async def test_weights_beside_an_old_graph(client: Client) -> None:
    """A graph of an old operator set with weights in another file needs no signature."""
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    async with client.open("split") as whole, client.open("split") as parts:
        expected = (await whole.step(x, ["y"]))["y"].numpy()
        answers = [(await parts.step(x[i : i + 2], ["y"]))["y"].numpy() for i in (0, 2, 4)]

    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(np.concatenate(answers), expected, atol=1e-6)

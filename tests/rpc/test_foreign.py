"""Models that others made, in all the shapes that there are, through gRPC: each session is answered as if alone."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from conveyor.client import Client, connect
from conveyor.server import start_server
from conveyor.settings import Settings
from tests.foreign import SHAPES, expected_sums, make_sums, save_foreign

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

"""Models with contexts and noise through the running service and the SDK."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import torch

from conveyor.client import Client, InvalidArgument, connect
from conveyor.engine.noise import draw_noise
from conveyor.server import start_server
from conveyor.settings import Settings
from conveyor.signature import NoiseSpec, Signature
from tests.models import make_context_model, make_walk_model, save_model

NUM_SESSIONS = 5
CUTS = ((9,), (1, 3, 5), (2, 2, 2, 2, 1))


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """A client of a server with room for two sessions at a time, and both models."""
    save_model(tmp_path / "pictures" / "1", make_context_model()[0])
    save_model(tmp_path / "walks" / "1", make_walk_model()[0])
    settings = Settings(models=tmp_path, port=0, metrics_port=0, num_threads=1, num_slots=2, max_batch=2)
    async with await start_server(settings) as server, connect(server.address) as client:
        yield client


def noise_of(spec: NoiseSpec, number: int, seed: int, num_steps: int) -> np.ndarray:
    """`[T, 1, ...]`."""
    return draw_noise(spec, number, np.array([seed], np.uint64), np.zeros(1, np.uint64), num_steps)


async def test_pictures_are_each_sessions_own(client: Client) -> None:
    """Interleaved, spilled and in odd chunks, each session gets what PyTorch gives for its picture and seed."""
    proto, reference = make_context_model()
    spec = Signature.from_json(next(p.value for p in proto.metadata_props)).noises[0]
    rng = np.random.default_rng(1)
    pictures = rng.normal(size=(NUM_SESSIONS, 3)).astype(np.float32)
    texts = rng.integers(0, 20, (NUM_SESSIONS, 9))

    async def step(number: int) -> np.ndarray:
        parts, start = [], 0
        async with client.open("pictures", seed=number, contexts={"picture": pictures[number]}) as session:
            for length in CUTS[number % len(CUTS)]:
                answer = await session.step(texts[number, start : start + length], ["logits"])
                parts.append(answer.outputs["logits"].numpy())
                start += length
        return np.concatenate(parts)

    answers = await asyncio.gather(*map(step, range(NUM_SESSIONS)))

    for number, logits in enumerate(answers):
        noise = torch.from_numpy(noise_of(spec, 0, number, 9))
        expected = reference(torch.from_numpy(texts[number])[:, None], torch.from_numpy(pictures[number])[None], noise)
        np.testing.assert_allclose(logits, expected[:, 0], atol=1e-4)


async def test_a_model_without_inputs_is_asked_for_steps(client: Client) -> None:
    """A walk starts where the session was told, and its steps depend on the seed alone."""
    stride, pace = Signature.from_json(make_walk_model()[0].metadata_props[0].value).noises
    home = np.array([3, -2], np.float32)
    async with client.open("walks", seed=9, contexts={"home": home}) as session:
        assert session.model.inputs == ()
        places = [(await session.step(n, ["place"])).outputs["place"].numpy() for n in (1, 4, 2)]
        assert session.position == 7

    moves = noise_of(stride, 0, 9, 7)[:, 0] * noise_of(pace, 1, 9, 7)[:, 0]
    np.testing.assert_allclose(np.concatenate(places), home + moves.cumsum(0), atol=1e-5)


async def test_what_a_model_without_inputs_cannot_take(client: Client) -> None:
    """The field is named, and the session stays where it is."""
    async with client.open("walks", contexts={"home": np.zeros(2, np.float32)}) as session:
        for steps in (0, -1, 100_000):
            with pytest.raises(InvalidArgument, match="num_steps"):
                await session.step(steps)
        with pytest.raises(InvalidArgument, match="num_steps"):
            await session.step("abc")
        assert (await session.step(1)).position == 1


async def test_contexts_that_are_refused(client: Client) -> None:
    """An opening without its context, or with one that does not fit, opens nothing."""
    for contexts in ({}, {"home": np.zeros(3, np.float32)}, {"home": np.zeros(2), "x": np.zeros(1)}):
        with pytest.raises(InvalidArgument, match="contexts"):
            await client.open("walks", contexts=contexts)
    assert await client.sessions() == []


async def test_models_tell_their_roles(client: Client) -> None:
    """A client sees what it must give, what is drawn, and how many bytes a session's contexts take."""
    model = await client.model("pictures")

    assert [info.name for info in model.contexts] == ["picture"]
    assert [(info.name, info.shape) for info in model.noises] == [("noise", (20,))]
    assert model.context_bytes == 4 * (3 + 20)

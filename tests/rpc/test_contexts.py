"""Models with contexts and noise through the running service and the SDK."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import grpc
import numpy as np
import onnx
import pytest
import torch

from conveyor.client import Client, InvalidArgument, ServerError, connect
from conveyor.engine.noise import draw_noise
from conveyor.server import Server, start_server
from conveyor.settings import Settings
from conveyor.signature import ContextSpec, NoiseSpec, Signature
from conveyor.v1 import step_pb2
from tests.models import make_context_model, make_walk_model, save_model, value_info

NUM_SESSIONS = 5
CUTS = ((9,), (1, 3, 5), (2, 2, 2, 2, 1))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """Has room for two sessions at a time, and both models."""
    save_model(tmp_path / "pictures" / "1", make_context_model()[0])
    save_model(tmp_path / "walks" / "1", make_walk_model()[0])
    settings = Settings(models=tmp_path, port=0, metrics_port=0, store="none", num_threads=1, num_slots=2, max_batch=2)
    async with await start_server(settings) as server:
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    """A client of it."""
    async with connect(server.address) as client:
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
        for steps in (0, -1, 100_000, 2**40, 1.5, "abc", None, [1], np.zeros((2, 3)), {}):
            with pytest.raises(InvalidArgument, match="num_steps"):
                await session.step(steps)
        assert (await session.step(np.int64(1))).position == 1


async def test_a_step_behind_one_of_no_steps_is_taken(client: Client) -> None:
    """A refused count is refused at once, and what was called after it is taken and told so."""
    async with client.open("walks", contexts={"home": np.zeros(2, np.float32)}) as session:
        refused, taken = await asyncio.gather(session.step(0), session.step(3), return_exceptions=True)
        assert isinstance(refused, InvalidArgument)
        assert not isinstance(taken, BaseException)
        assert (taken.position, (await session.step(2)).position) == (3, 5)


async def test_contexts_that_are_refused(client: Client) -> None:
    """An opening without its context, or with one that does not fit, opens nothing."""
    for contexts in ({}, {"home": np.zeros(3, np.float32)}, {"home": np.zeros(2), "x": np.zeros(1)}):
        with pytest.raises(InvalidArgument, match="contexts"):
            await client.open("walks", contexts=contexts)
    assert await client.sessions() == []


async def test_contexts_are_counted(client: Client, server: Server) -> None:
    """The metrics tell how much memory the contexts of open sessions take: of a picture, what the steps look at."""
    contexts = {"picture": np.zeros(3, np.float32)}
    async with client.open("pictures", contexts=contexts), client.open("pictures", contexts=contexts):
        page = await asyncio.to_thread(lambda: urlopen(f"http://{server.metrics_address}/metrics").read().decode())

    assert 'conveyor_context_bytes{model="pictures",version="1"} 160.0' in page


async def test_models_tell_their_roles(client: Client) -> None:
    """A client sees what it must give, what is drawn, and how many bytes a session's contexts take."""
    model = await client.model("pictures")

    assert [info.name for info in model.contexts] == ["picture"]
    assert [(info.name, info.shape) for info in model.noises] == [("noise", (20,))]
    assert model.context_bytes == 4 * (3 + 20)


async def test_tokens_for_a_model_without_inputs(client: Client) -> None:
    """Who writes the protocol without the SDK is told what to give instead."""
    stub = client._connection.stub
    async with client.open("walks", contexts={"home": np.zeros(2, np.float32)}) as session:
        with pytest.raises(grpc.aio.AioRpcError, match="takes no tokens; give num_steps"):
            await stub.Step(step_pb2.StepRequest(chunk=step_pb2.Chunk(session_id=session.id, tokens=[1])))


async def test_a_start_that_fails_is_not_explained_to_the_client(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The client reads an id, the log has what ONNX Runtime says under it, and nothing has been opened."""
    save_model(tmp_path / "squares" / "1", make_square_model())
    settings = Settings(models=tmp_path, port=0, metrics_port=0, store="none", num_threads=1)
    async with await start_server(settings) as server, connect(server.address) as client:
        with pytest.raises(ServerError, match=r"internal error \w+: the server's log has it") as caught:
            await client.open("squares", contexts={"sides": np.array([1, 2])})
        assert await client.sessions() == []
        await client.open("squares", contexts={"sides": np.array([2, 2])})

    assert "Reshape" not in str(caught.value)
    assert "Reshape" in caplog.text


def make_square_model() -> onnx.ModelProto:
    """A walk from where four numbers lie, which can be laid out in two rows of two and in no other way."""
    proto, _ = make_walk_model()
    graph, (entry,) = proto.graph, proto.metadata_props
    sides = ContextSpec("sides", "int64", (2,))
    signature = replace(Signature.from_json(entry.value), contexts=(sides,), max_token=2)
    entry.value = signature.to_json()
    graph.input.remove(next(value for value in graph.input if value.name == "home"))
    graph.input.append(value_info(sides))
    graph.node.remove(next(node for node in graph.node if "at_first" in node.output))
    graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(4, np.float32), "four"))
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "rows"))
    graph.node.append(onnx.helper.make_node("Reshape", ["four", "sides"], ["square"]))
    graph.node.append(onnx.helper.make_node("ReduceMax", ["square", "rows"], ["at_first"]))
    return proto

"""Files that nobody vouches for: each bad one is one readable sentence, and hurts nobody but its trial."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from conveyor.cli.model_report import describe_file
from conveyor.client import Client, connect
from conveyor.engine.trial import Bounds, Verdict, try_file
from conveyor.graph.errors import ModelError
from conveyor.graph.model_file import read_model
from conveyor.server import start_server
from conveyor.settings import Settings
from conveyor.signature import Axis, OutputSpec, Signature, StateSpec, TensorSpec
from tests.foreign import make_bomb, make_endless, make_step, make_sums, save_foreign
from tests.models import make_model, save_model
from tests.processes import are_gone, trials_of

BOUNDS = Bounds(num_bytes=6 * 1024**3, seconds=20, max_batch=4)


async def test_a_good_file_is_known_afterwards(tmp_path: Path) -> None:
    """A file is tried and its fingerprint told, whoever has written it."""
    foreign = save_foreign(tmp_path / "foreign", make_sums(0, 1)[0])
    ours = save_model(tmp_path / "ours", make_model()[0])

    for path in (foreign, ours):
        assert await try_file(path, BOUNDS) == Verdict(read_model(path).fingerprint)


@pytest.mark.parametrize(
    ("proto", "problem"),
    [
        (make_bomb(), "the model cannot make a step: .*Failed to allocate memory"),
        (make_step([helper.make_node("Cast", ["h"], ["hn"], to=TensorProto.FLOAT16)]), "cannot load the graph"),
        (make_step([helper.make_node("LSTM", ["x", "h"], ["hn"])]), "malformed graph"),
    ],
)
async def test_a_bad_file_is_one_sentence(proto: onnx.ModelProto, problem: str, tmp_path: Path) -> None:
    """The message has the path and the reason."""
    bad = save_foreign(tmp_path, proto)

    with pytest.raises(ModelError, match=problem) as caught:
        await try_file(bad, BOUNDS)
    assert str(caught.value).startswith(f"{bad}: ")
    assert "\n" not in str(caught.value)


async def test_a_file_that_is_none(tmp_path: Path) -> None:
    """Text, an empty file and a graph in a graph without end are told apart from models."""
    for content in (b"not a model", b"", nested_bytes(5000)):
        path = tmp_path / "model.onnx"
        path.write_bytes(content)
        with pytest.raises(ModelError, match=f"{path}: ") as caught:
            await try_file(path, BOUNDS)
        assert "\n" not in str(caught.value)


def nested_bytes(depth: int) -> bytes:
    """A model whose only node has a graph whose only node has a graph, as bytes: no library would write it."""

    def field(number: int, body: bytes) -> bytes:
        size, length = b"", len(body)
        while length > 127:
            size, length = size + bytes([length & 127 | 128]), length >> 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + body

    graph = b""
    for _ in range(depth):
        attribute = field(1, b"body") + field(6, graph)
        graph = field(1, field(5, attribute))
    return field(7, graph)


async def test_a_file_that_never_ends(tmp_path: Path) -> None:
    """After its time the trial is over, and before it if nobody waits any more."""
    path = save_foreign(tmp_path, make_endless())

    with pytest.raises(ModelError, match="did not load and make a step within 1 s"):
        await try_file(path, replace(BOUNDS, seconds=1))
    trial = asyncio.create_task(try_file(path, BOUNDS))
    while not (trials := trials_of(os.getpid())):
        await asyncio.sleep(0.01)
    trial.cancel()
    await asyncio.wait([trial])
    assert trial.cancelled()
    while not are_gone(trials):
        await asyncio.sleep(0.01)


async def test_a_file_that_says_that_it_is_ours(tmp_path: Path) -> None:
    """What it says of its origin is believed as far as its roles go, and spares it no bound."""
    proto = make_endless()
    inputs = (TensorSpec("x", "float32", (3,), Axis(batch=0)),)
    states = (StateSpec("h", "float32", (3,), Axis(batch=0), "hn"),)
    outputs = (OutputSpec("y", "float32", (3,), Axis(batch=0)),)
    signature = Signature(inputs, states, outputs)
    proto.metadata_props.add(key="conveyor.signature", value=signature.to_json())
    save_foreign(tmp_path / "m" / "1", proto)
    settings = Settings(models=tmp_path, port=0, metrics_port=0, num_threads=1, trial_seconds=2)

    with pytest.raises(ModelError, match="did not load and make a step within 2 s"):
        await start_server(settings)


async def test_axes_that_are_not_what_they_seem(tmp_path: Path) -> None:
    """A wrong signature that would run is found out: steps would hear of later ones."""
    proto, signature = make_sums(0, 1)
    everything = [axis for axis in proto.graph.node if axis.op_type == "CumSum"]
    everything[0].attribute.append(helper.make_attribute("reverse", 1))
    path = save_foreign(tmp_path, proto, signature)

    with pytest.raises(ModelError, match=r"steps that run together .* in sums: the time axes .* shape has the length"):
        await try_file(path, BOUNDS)


def mixing(*states: str) -> list[onnx.NodeProto]:
    """Nodes by which `hn` is the mean of the batch's rows of `x`, beside the states."""
    mean = helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1)
    return [mean, helper.make_node("Add", ["x", "mean"], ["both"]), helper.make_node("Sum", ["both", *states], ["hn"])]


ONE_ROW = [helper.make_node("Reshape", ["x", "row"], ["only"]), helper.make_node("Add", ["h", "only"], ["hn"])]


@pytest.mark.parametrize(
    ("proto", "factor", "reason"),
    [
        (make_step(mixing("h")), 2, "sessions that run together differ from the same alone in y"),
        (
            make_step(ONE_ROW, numpy_helper.from_array(np.array([1, 3]), "row")),
            1,
            "the model cannot run 1 steps of 2 ses",
        ),
    ],
    ids=["mixes its rows", "takes one row"],
)
async def test_sessions_that_cannot_run_together(
    proto: onnx.ModelProto, factor: int, reason: str, tmp_path: Path
) -> None:
    """They are served one at a time, each as if alone, whatever the graph declares; a trial and `inspect` say why."""
    path = save_foreign(tmp_path / "m" / "1", proto)
    assert (await try_file(path, BOUNDS)).alone_because.startswith(reason)
    assert f"one session in a run: {reason}" in await asyncio.to_thread(describe_file, path)

    async def run(client: Client, number: int) -> None:
        steps = np.full((4, 3), number, np.float32)
        async with client.open() as session:
            answer = await session.step(steps, ["y"])
        np.testing.assert_array_equal(answer["y"].numpy(), factor * steps.cumsum(axis=0))

    settings = Settings(models=tmp_path, port=0, metrics_port=0, store="none", num_threads=1)
    async with await start_server(settings) as server, connect(server.address) as client:
        assert server.engines.of_model("m").max_batch == 1
        await asyncio.gather(*(run(client, number) for number in range(4)))


async def test_rows_that_are_steps_of_a_sequence(tmp_path: Path) -> None:
    """Without a state, a graph that mixes its rows wants all of them: how many, a person can say."""
    proto = make_step(mixing())
    del proto.graph.input[1], proto.graph.output[1]
    path = save_foreign(tmp_path, proto)
    with pytest.raises(ModelError, match=r"in y: the batch axes .* If a step is a whole sequence, say how long"):
        await try_file(path, BOUNDS)
    assert "cannot be served" in await asyncio.to_thread(describe_file, path)

    x, y = TensorSpec("x", "float32", (5, 3)), OutputSpec("y", "float32", (5, 3))
    save_foreign(tmp_path, proto, Signature((x,), (), (y,)))
    settings = Settings(models=path, port=0, metrics_port=0, store="none", num_threads=1)
    sequences = np.arange(30, dtype=np.float32).reshape(2, 5, 3)
    async with await start_server(settings) as server, connect(server.address) as client, client.open() as session:
        got = (await session.step(sequences, ["y"]))["y"].numpy()
    np.testing.assert_allclose(got, sequences + sequences.mean(axis=1, keepdims=True))


async def test_sequences_that_are_steps(tmp_path: Path) -> None:
    """A graph that looks at whole sequences is refused as one of steps, and serves as one of sequences, batched."""
    mean = helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=1)
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["B", "T", 3]) for n in ("x", "y")]
    graph = helper.make_graph([mean, helper.make_node("Add", ["x", "mean"], ["y"])], "g", values[:1], values[1:])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = save_foreign(tmp_path, proto)
    with pytest.raises(ModelError, match=r"steps that run together .* in y: the time axes .* axis\.time is null then"):
        await try_file(path, BOUNDS)

    whole = (5, 3), Axis(batch=0)
    signature = Signature((TensorSpec("x", "float32", *whole),), (), (OutputSpec("y", "float32", *whole),))
    save_foreign(tmp_path, proto, signature)
    settings = Settings(models=path, port=0, metrics_port=0, store="none", num_threads=1)
    sequences = np.arange(30, dtype=np.float32).reshape(2, 5, 3)
    async with await start_server(settings) as server, connect(server.address) as client, client.open() as session:
        assert server.engines.of_model("model").max_batch > 1
        got = (await session.step(sequences, ["y"]))["y"].numpy()
    np.testing.assert_allclose(got, sequences + sequences.mean(axis=1, keepdims=True))


async def test_what_is_too_large(tmp_path: Path) -> None:
    """A state that no memory could hold for many is refused by its name."""
    proto, signature = make_sums(0, 1)
    state = replace(signature.states[0], shape=(2**20, 2**20), axis=Axis(batch=0))
    path = save_foreign(tmp_path, proto, replace(signature, states=(state,)))

    with pytest.raises(ModelError, match=r"state: \[1048576, 1048576\] is more than 268435456 elements"):
        await try_file(path, BOUNDS)


async def test_a_server_does_not_start_with_it(tmp_path: Path) -> None:
    """A server that is given a bad file says so and has crashed in no way."""
    save_foreign(tmp_path / "m" / "1", make_bomb())
    settings = Settings(models=tmp_path, port=0, metrics_port=0, num_threads=1, trial_bytes=6 * 1024**3)

    with pytest.raises(ModelError, match="cannot make a step"):
        await start_server(settings)

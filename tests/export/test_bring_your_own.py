"""docs/bring-your-own.md, run as it stands, on the models of three packages; and what it says of them."""

import asyncio
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import copy
from typing import Any

import numpy as np
import pytest
import torch

from conveyor.cli import main
from conveyor.client import Client, connect, connect_sync
from conveyor.graph.model_file import read_model
from conveyor.server import start_server
from conveyor.settings import Settings
from conveyor.signature import Axis
from tests.client.serving import ServerProcess, serving
from tests.packaged import DTLN, SILERO, folder_of, loop_of, make_frames

PAGE = Path(__file__).parents[2] / "docs" / "bring-your-own.md"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
PYTHON = [code for kind, code in BLOCKS if kind == "python"]
COMPLETE, FRAMES, RATES, DETECTOR, WRITER, TEXT = PYTHON
TRIED = ("--trial-seconds", "60")


@pytest.fixture(scope="module")
def silero() -> Path:
    return folder_of(*SILERO)


@pytest.fixture(scope="module")
def dtln() -> Path:
    return folder_of(*DTLN)


def run_page(folder: Path, *blocks: str) -> None:
    """Runs parts of the page one after another, in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile("".join(blocks), PAGE.name, "exec"), {})  # noqa: S102 - our own page


def write_proposal(silero: Path, folder: Path) -> Path:
    """The page's first commands."""
    path = Path(copy(silero / "silero_vad.onnx", folder / "vad.onnx"))
    assert main(["inspect", str(path), "--write"]) == 0
    return path


@pytest.fixture(scope="module")
def detector(silero: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The page's first section, up to a server."""
    path = write_proposal(silero, tmp_path_factory.mktemp("vad"))
    run_page(path.parent, COMPLETE)
    with serving(path, *TRIED) as server:
        yield server


def test_what_inspect_says_of_it(silero: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page shows what the command prints."""
    copy(silero / "silero_vad.onnx", tmp_path / "vad.onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        main(["inspect", "vad.onnx", "--write"])

    (shown,) = [text for kind, text in BLOCKS if kind == "text"]
    assert capsys.readouterr().out == shown


def test_a_foreign_file_through_grpc(silero: Path, detector: ServerProcess) -> None:
    """A session is answered as the file's own loop answers, with the model's sample rate or the same of its own."""
    with connect_sync(detector.address) as client:
        for contexts, seed in (({}, 0), ({"sr": np.array(16000)}, 1)):
            frames = make_frames(12, seed)
            with client.open(contexts=contexts) as session:
                got = session.step(frames, ["output"])["output"].numpy()
            inputs = {"input": frames[:, None], "sr": np.array(16000)}
            states = {"state": np.zeros((2, 1, 128), np.float32)}
            expected = loop_of(silero / "silero_vad.onnx", inputs, states, "output")
            np.testing.assert_allclose(got, expected[:, 0], atol=1e-5)
            assert np.ptp(got) > 0.01


def test_the_client_of_the_page(detector: ServerProcess) -> None:
    """The page's example prints two equal lines of probabilities."""
    code = FRAMES.replace("localhost:50051", detector.address)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    first, second = re.findall(r"\[(.*?)\]", done.stdout, re.DOTALL)
    assert first == second
    assert len(first.split()) == 20


def test_both_rates(silero: Path, tmp_path: Path) -> None:
    """The page's two models of one file answer as the file's own loop does at each rate."""
    write_proposal(silero, tmp_path)
    run_page(tmp_path, COMPLETE, RATES)
    with serving(tmp_path / "models", *TRIED) as server, connect_sync(server.address) as client:
        for rate, num_samples in ((16000, 576), (8000, 288)):
            frames = make_frames(12, rate=rate, num_samples=num_samples)
            with client.open(f"vad-{rate}") as session:
                got = session.step(frames, ["output"])["output"].numpy()
            inputs = {"input": frames[:, None], "sr": np.array(rate)}
            states = {"state": np.zeros((2, 1, 128), np.float32)}
            expected = loop_of(silero / "silero_vad.onnx", inputs, states, "output")
            np.testing.assert_allclose(got, expected[:, 0], atol=1e-5)
            assert np.ptp(got) > 0.01


@pytest.mark.parametrize(
    ("name", "states", "batch"),
    [
        ("silero_vad_16k_sequence.onnx", ["h->hn", "c->cn"], None),
        ("silero_vad_openvino_16k.onnx", ["state->stateN"], None),
    ],
)
def test_files_that_leave_nothing_open(silero: Path, name: str, states: list[str], batch: int | None) -> None:
    """These forms of the same model need no signature."""
    model = read_model(silero / name)

    assert model.source == "graph"
    assert [f"{state.name}->{state.output}" for state in model.signature.states] == states
    assert model.signature.inputs[0].axis.batch == batch


@pytest.mark.parametrize("name", ["silero_vad_half.onnx", "silero_vad_16k_op15.onnx", "silero_vad_op18_ifless.onnx"])
def test_files_that_leave_a_length_open(
    silero: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the others every role is found, and what is asked is what the graph does not say."""
    path = Path(copy(silero / name, tmp_path))

    assert main(["inspect", str(path)]) == 0

    told = capsys.readouterr().out
    asked = told.split("to be settled before it can be served\n")[1].strip().splitlines()
    assert asked[0] == "input input: the length of axis 1"
    assert all("constant sr" in line for line in asked[1:])
    assert "state state -> stateN: their names and shapes" in told


def test_names_that_tell_nothing(dtln: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of the model shows its state by its LSTMs; of the other a person names it. Both answer as their own loop."""
    first, second = (tmp_path / name / "1" / "model.onnx" for name in ("first", "second"))
    for path, source in ((first, "model_1.onnx"), (second, "model_2.onnx")):
        path.parent.mkdir(parents=True)
        copy(dtln / source, path)
    assert main(["inspect", str(second)]) == 1
    told = capsys.readouterr().err
    assert "input_4 -> conv1d_3 and input_5 -> tf_op_layer_stack_5 fit" in told
    assert main(["inspect", str(second), "--state", "input_5=tf_op_layer_stack_5", "--write"]) == 0
    assert "one session in a run: input_4 has no batch axis" in capsys.readouterr().out

    rng = np.random.default_rng(0)
    with serving(tmp_path, *TRIED) as server, connect_sync(server.address) as client:
        for name, path, stream, state, output, width in (
            ("first", first, "input_2", "input_3", "activation_2", 257),
            ("second", second, "input_4", "input_5", "conv1d_3", 512),
        ):
            steps = rng.normal(size=(9, 1, 1, width)).astype(np.float32)
            with client.open(name) as session:
                got = session.step(steps, [output])[output].numpy()
            states = {state: np.zeros((1, 2, 128, 2), np.float32)}
            np.testing.assert_allclose(got, loop_of(path, {stream: steps}, states, output), atol=1e-5)


async def test_batches_where_the_graph_says_one(silero: Path, tmp_path: Path) -> None:
    """A person may know better: sessions share runs then, and each is answered as by the file's own loop."""
    path = Path(copy(silero / "silero_vad_openvino_16k.onnx", tmp_path / "vad.onnx"))
    signature = read_model(path).signature
    assert signature.unbatched
    roles = zip(("inputs", "states", "outputs"), ((576,), (2, 128), (1,)), (0, 1, 0), strict=True)
    batched = {role: (replace(getattr(signature, role)[0], shape=s, axis=Axis(batch=b)),) for role, s, b in roles}
    (tmp_path / "vad.signature.json").write_text(replace(signature, **batched).to_json())

    async def run(client: Client, seed: int) -> None:
        frames, states = make_frames(12, seed), {"state": np.zeros((2, 1, 128), np.float32)}
        async with client.open() as session:
            got = (await session.step(frames, ["output"]))["output"].numpy()
        expected = loop_of(silero / "silero_vad_openvino_16k.onnx", {"input": frames[:, None]}, states, "output")
        np.testing.assert_allclose(got, expected[:, 0], atol=1e-5)

    settings = Settings(models=path, port=0, metrics_port=0, store="none", num_threads=1)
    async with await start_server(settings) as server, connect(server.address) as client:
        await asyncio.gather(*(run(client, seed) for seed in range(4)))
        assert max(server.metrics.of_model("vad", 1).runs_of_size) > 1


@pytest.fixture(scope="module")
def page(silero: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder and the names that the page's exports leave behind."""
    folder_of("textgenrnn", "textgenrnn")
    folder, names = tmp_path_factory.mktemp("page"), dict[str, Any]()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated", DeprecationWarning)
        patch.chdir(folder)
        for block in (DETECTOR, WRITER):
            exec(compile(block, PAGE.name, "exec"), names)  # noqa: S102 - our own page
    return folder, names


@pytest.fixture(scope="module")
def exports(page: tuple[Path, dict[str, Any]]) -> Iterator[ServerProcess]:
    """A server of them."""
    with serving(page[0] / "models", *TRIED) as server:
        yield server


def test_weights_of_a_module(silero: Path, exports: ServerProcess) -> None:
    """The module with the published weights gives what the published graph gives."""
    frames = make_frames(12)
    with connect_sync(exports.address) as client, client.open("vad") as session:
        got = session.step(frames, ["speech"])["speech"].numpy()

    states = {"state": np.zeros((2, 1, 128), np.float32)}
    expected = loop_of(silero / "silero_vad_openvino_16k.onnx", {"input": frames[:, None]}, states, "output")
    np.testing.assert_allclose(got, expected[:, 0, 0], atol=1e-4)


def windowed(names: dict[str, Any], window: list[int]) -> torch.Tensor:
    """Log-probabilities of the next character as Keras's own layers give them, of a whole window at once."""
    writer = names["Writer"]()
    below = writer.embedding(torch.tensor(window))[:, None]
    parts = [below]
    for lstm in writer.layers:
        parts.append(lstm(parts[-1])[0])
    found = torch.cat(parts, dim=2)[:, 0]
    average = ((found @ writer.attention).softmax(dim=0) * found).sum(dim=0)
    return torch.log_softmax(writer.output(average), dim=0)


@torch.no_grad()
def test_arrays_of_keras(page: tuple[Path, dict[str, Any]], exports: ServerProcess) -> None:
    """Carried on character by character, the average is the window's; and the language is English."""
    ids: dict[str, int] = json.loads((folder_of("textgenrnn", "textgenrnn") / "textgenrnn_vocab.json").read_text())
    text = "What is the best way to learn?"
    tokens = [0] * 39 + [ids["<s>"], *(ids[character] for character in text)]
    with connect_sync(exports.address) as client:
        with client.open("writer") as session:
            scores = session.score("\0" * 39 + "<s>" + text)[40:]
        with client.open("writer") as session:
            shuffled = session.score("\0" * 39 + "<s>" + "".join(sorted(text)))[40:]

    first = windowed(page[1], tokens[:40])
    assert scores[0] == pytest.approx(float(first[tokens[40]]), abs=1e-3)
    assert len(scores) == len(text)
    assert np.mean(scores) > -1.5 > np.mean(shuffled)


def test_the_text_of_the_page(exports: ServerProcess) -> None:
    """The page's example writes as many characters as it asks for, most of them letters and spaces."""
    code = TEXT.replace("localhost:50051", exports.address)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert sum(character.isalpha() or character == " " for character in done.stdout) > 30

"""`conveyor watch` and outputs on request, against a real server of a model whose gates PyTorch can tell."""

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper

from conveyor.cli import main
from conveyor.cli.gate_view import style_of
from conveyor.client import connect_sync
from conveyor.server import start_server
from conveyor.settings import Settings
from conveyor.signature import Axis, OutputSpec
from conveyor_export import ExportOptions, export_model
from conveyor_export.gates import GatedLanguageModel
from conveyor_export.language_model import LanguageModel, LanguageModelConfig
from tests.client.serving import SYMBOLS, ServerProcess, serving
from tests.engine.test_optional_outputs import declare
from tests.models import make_model, save_model

Capture = pytest.CaptureFixture[str]
PAGE = Path(__file__).parents[2] / "docs" / "watch.md"
TEXT = "abcab\ncd"  # the line break is unknown to the model
GATES = ("forget", "input", "output", "candidate", "cell")


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    """Two layers of twelve units, with weights that open and shut their gates."""
    torch.manual_seed(0)
    model = LanguageModel(LanguageModelConfig(len(SYMBOLS), 8, 12, 2)).eval()
    for parameter in model.rnn.parameters():
        torch.nn.init.normal_(parameter)
    return model


@pytest.fixture(scope="module")
def path(model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gated") / "gated" / "1" / "model.onnx"
    export_model(model, path, vocabulary=list(SYMBOLS), options=ExportOptions(gates=True))
    return path


@pytest.fixture(scope="module")
def gated(path: Path) -> Iterator[ServerProcess]:
    with serving(path.parents[2]) as process:
        yield process


@pytest.fixture(scope="module")
def expected(model: LanguageModel) -> dict[str, torch.Tensor]:
    """Each gate of the text `[T, H]`, by PyTorch."""
    tokens = [SYMBOLS.index(c) if c in SYMBOLS else 0 for c in TEXT]
    module, states, steps = GatedLanguageModel(model).eval(), model.initial_states(1), []
    with torch.no_grad():
        for token in tokens:
            outputs, states = module({"tokens": torch.tensor([[token]])}, states)
            steps.append(outputs)
    return {name: torch.cat([step[name][0] for step in steps]) for name in steps[0]}


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return str(path)


def test_what_is_no_terminal_is_given_plain_text(
    text: str, gated: ServerProcess, expected: dict[str, torch.Tensor], capsys: Capture
) -> None:
    """The text comes line by line without control characters, and the last character's gates are PyTorch's."""
    assert main(["watch", text, "--address", gated.address, "--layer", "0", "--unit", "7"]) == 0

    printed = capsys.readouterr().out
    assert "gated, layer 0, unit 7: cell" in printed
    assert "\nabcab↵\ncd\n" in printed
    assert "\x1b" not in printed
    values = {line.split()[0]: float(line.split()[-1]) for line in printed.splitlines()[-len(GATES) :]}
    assert values == {gate: pytest.approx(expected[f"{gate}0"][-1, 7].item(), abs=6e-4) for gate in GATES}


@pytest.mark.parametrize("gate", ["cell", "output"])
def test_each_character_has_the_colour_of_its_gate(
    gate: str,
    text: str,
    gated: ServerProcess,
    expected: dict[str, torch.Tensor],
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With colours forced, the background of every character is that of PyTorch's value."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    assert main(["watch", text, "--address", gated.address, "--unit", "3", "--gate", gate]) == 0

    got = re.findall(r"48;2;(\d+);(\d+);(\d+)m([abcd↵])\x1b", capsys.readouterr().out)
    seen = got[: TEXT.index("\n") + 1]  # of the last line every stage is there
    assert [c for *_, c in seen] == list("abcab↵")
    for (*rgb, _), value in zip(seen, expected[f"{gate}1"][:, 3].tolist(), strict=False):
        background = style_of(gate, value).bgcolor
        assert background is not None
        assert [int(part) for part in rgb] == pytest.approx(list(background.get_truecolor()), abs=1)


def test_without_a_unit_it_takes_the_one_whose_colour_varies_most(
    text: str, gated: ServerProcess, expected: dict[str, torch.Tensor], capsys: Capture
) -> None:
    """By default it is of the last layer, and the largest variance of the cell states' tanh decides."""
    assert main(["watch", text, "--address", gated.address]) == 0

    levels = expected["cell1"].tanh()
    unit = int(levels.var(0).argmax())
    assert f"gated, layer 1, unit {unit}: cell" in capsys.readouterr().out


def test_on_a_terminal_it_is_live(text: str, gated: ServerProcess) -> None:
    """On a terminal the view is drawn again for each character, and the text stays when it ends."""
    ours, theirs = pty.openpty()
    code = "import sys; from conveyor.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "watch", text, "--address", gated.address, "--delay", "0.01"]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = read_all(ours)

    assert process.returncode == 0
    assert shown.count("candidate") >= len(TEXT)
    assert re.sub(r"\x1b\[[\d;?]*\w", "", shown).count("abcab↵") >= 1
    assert "Traceback" not in shown


def read_all(terminal: int) -> str:
    """What is written to a terminal until nobody has it open any more."""
    parts = []
    try:
        while part := os.read(terminal, 1 << 16):
            parts.append(part)
    except OSError:  # so Linux tells that the other side is closed
        pass
    os.close(terminal)
    return b"".join(parts).decode()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--unit", "12"], "--unit 12: layer 1 has units 0 to 11"),
        (["--unit", "-1"], "--unit -1: layer 1 has units 0 to 11"),
        (["--layer", "2"], "--layer 2: model gated offers layers 0, 1"),
        (["--gate", "door"], "--gate door: layer 1 offers forget, input, output, candidate, cell"),
        (["--model", "nobody"], "nobody"),
    ],
)
def test_what_the_model_does_not_offer_is_told_in_one_line(
    options: list[str], problem: str, text: str, gated: ServerProcess, capsys: Capture
) -> None:
    """A wrong unit, layer or gate is named together with those that there are."""
    assert main(["watch", text, "--address", gated.address, *options]) == 1

    told = capsys.readouterr()
    assert problem in told.err
    assert len(told.err.splitlines()) == 1
    assert told.out == ""


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("letters", "model letters offers no gates: export it again with conveyor-export --gates"),
        ("frames", "model frames has no vocabulary: it cannot read text"),
    ],
)
def test_a_model_that_cannot_be_watched_says_why(
    name: str, problem: str, text: str, server: ServerProcess, capsys: Capture
) -> None:
    """The one line names the model, and the option that would help."""
    assert main(["watch", text, "--address", server.address, "--model", name]) == 1

    assert capsys.readouterr().err == f"conveyor: {problem}\n"


def test_an_empty_text_is_refused(tmp_path: Path, capsys: Capture) -> None:
    """There is nothing to watch in an empty file."""
    (tmp_path / "empty.txt").touch()

    assert main(["watch", str(tmp_path / "empty.txt"), "--address", "127.0.0.1:1"]) == 1
    assert "empty.txt: nothing to watch" in capsys.readouterr().err


def test_the_pages_example_runs(gated: ServerProcess) -> None:
    """The client's example in docs/watch.md gets a forget gate for each character."""
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    code = example.replace("localhost:50051", gated.address)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.stderr == ""
    assert done.stdout.startswith("(15, 12) ['forget0', 'input0', ")


def test_inspect_marks_outputs_on_request(path: Path, gated: ServerProcess, capsys: Capture) -> None:
    """Of a file and of a server it tells which outputs are computed on request."""
    for source in ([str(path)], ["--address", gated.address]):
        assert main(["inspect", *source]) == 0
        report = capsys.readouterr().out
        assert re.search(r"output +forget1 .* on request\n", report)
        assert not re.search(r"output +logits .*on request", report)


def test_a_client_is_told_which_outputs_are_optional(gated: ServerProcess) -> None:
    """The signature that a server tells marks them, and only them."""
    with connect_sync(gated.address) as client:
        model = client.model("gated")

    assert {info.name for info in model.outputs if not info.is_optional} == {"logits"}
    assert {info.name for info in model.outputs if info.is_optional} == {f"{g}{n}" for g in GATES for n in (0, 1)}
    assert not any(info.is_optional for info in (*model.inputs, *model.states))


@pytest.fixture
async def pieces(tmp_path: Path) -> AsyncIterator[str]:
    """Address of a server of a model that reads pieces of text and whose gates are not equally wide."""
    symbols = ["<unk>", *"abcdefghijklmnopq", "hello ", "\u6f22"]
    proto, _ = make_model(vocabulary_size=len(symbols))
    proto.graph.initializer.append(numpy_helper.from_array(np.arange(3), "three"))
    proto.graph.node.append(helper.make_node("Identity", ["logits"], ["cell0"]))
    proto.graph.node.append(helper.make_node("Gather", ["logits", "three"], ["forget0"], axis=2))
    steps = Axis(batch=1, time=0)
    widths = {"cell0": len(symbols), "forget0": 3}
    declare(proto, *(OutputSpec(name, "float32", (n,), steps, is_optional=True) for name, n in widths.items()))
    proto.metadata_props.add(key="conveyor.vocabulary", value=json.dumps(symbols))
    save_model(tmp_path / "pieces" / "1", proto)
    settings = Settings(models=tmp_path, port=0, metrics_port=0, store="none", num_threads=1)
    async with await start_server(settings) as server:
        yield server.address


async def watched(address: str, text: str, path: Path, capsys: Capture) -> list[str]:
    """The lines that are shown of a text, under the title."""
    await asyncio.to_thread(path.write_text, text)
    assert await asyncio.to_thread(main, ["watch", str(path), "--address", address]) == 0
    title, _, *lines = capsys.readouterr().out.splitlines()
    assert re.search(r"unit [012]: cell", title), "a unit that every gate has"
    return lines[: lines.index("")]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("hello " * 20, ["hello " * 13, "hello " * 7]),
        ("a" + "\u6f22" * 50, ["a" + "\u6f22" * 39, "\u6f22" * 11]),
        ("<unk>ab\tA\n<unk>", ["<unk>ab\xb7A\u21b5", "<unk>"]),
    ],
)
async def test_a_text_is_shown_whole(text: str, lines: list[str], pieces: str, tmp_path: Path, capsys: Capture) -> None:
    """Lines are full of whole pieces, however wide these are, and nothing of what is unknown is lost."""
    assert await watched(pieces, text, tmp_path / "text.txt", capsys) == lines

"""The `conveyor-export` command: what it prints, and one line for everything that goes wrong."""

from pathlib import Path

import pytest
import torch

from conveyor.graph import read_model
from conveyor_export.cli import main
from conveyor_export.language_model import save_checkpoint
from conveyor_export.source import load_source
from tests.export.custom_modules import Tagger
from tests.export.test_export import SYMBOLS, make_language_model

TAGGER = "tests.export.custom_modules:make_tagger"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint file as `conveyor-train` writes it."""
    path = tmp_path / "best.pt"
    save_checkpoint(path, make_language_model(), SYMBOLS, {"corpus": "letters"})
    return path


def test_exports_a_checkpoint(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint needs no more than its name and the output's; the report gives the facts."""
    text = tmp_path / "text.txt"
    text.write_text("abcabcabcabc" * 30)

    assert main([str(checkpoint), str(tmp_path / "m.onnx"), "--int8", "--opset", "21", "--text", str(text)]) == 0
    report = capsys.readouterr().out
    assert "h [1, 16] float32, c [1, 16] float32; 128 bytes per session" in report
    assert "proof against PyTorch: " in report
    assert "cost of int8: largest difference" in report
    assert "bits per character: " in report
    read = read_model(tmp_path / "m.onnx")
    assert read.provenance["corpus"] == "letters"
    assert read.provenance["checkpoint"] == "best.pt"
    assert read.provenance["command"] == "conveyor-export best.pt m.onnx --int8 --opset 21 --text text.txt"
    assert list(read.vocabulary.symbols) == SYMBOLS


def test_gates_are_outputs_on_request(checkpoint: Path, tmp_path: Path) -> None:
    """With `--gates` a trained model's file offers its gates."""
    assert main([str(checkpoint), str(tmp_path / "m.onnx"), "--gates"]) == 0

    optional = [spec.name for spec in read_model(tmp_path / "m.onnx").signature.outputs if spec.is_optional]
    assert optional == ["forget0", "input0", "output0", "candidate0", "cell0"]


def test_exports_a_module_from_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`package.module:attribute` names a module, here one that can only be stepped, and the notice says so."""
    assert main(["tests.export.custom_modules:cell_loop", str(tmp_path / "m.onnx")]) == 0
    assert "notice: one step per run" in capsys.readouterr().out
    assert read_model(tmp_path / "m.onnx").provenance["module"] == "tests.export.custom_modules:cell_loop"


def test_source_may_be_a_function() -> None:
    """A function without arguments is called for its module."""
    assert isinstance(load_source(TAGGER).module, Tagger)


def test_vocabulary_file_replaces_the_checkpoints(checkpoint: Path, tmp_path: Path) -> None:
    """A vocabulary given apart comes first."""
    (tmp_path / "v.json").write_text('["?", "a"]')

    assert load_source(str(checkpoint)).vocabulary == SYMBOLS
    assert load_source(str(checkpoint), tmp_path / "v.json").vocabulary == ["?", "a"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.pt"], "nowhere.pt: no such file"),
        (["{tmp}/garbage.pt"], "not a checkpoint of conveyor-train"),
        (["{tmp}/foreign.pt"], "not a checkpoint of conveyor-train"),
        (["{tmp}/empty.pt"], "not a checkpoint of conveyor-train: EOFError"),
        (["no.such.package:thing"], "No module named 'no'"),
        (["tests.export.custom_modules:nothing"], "has no attribute 'nothing'"),
        (["tests.export.custom_modules:complains"], "ValueError: not today, nor tomorrow"),
        (["tests.export.custom_modules:not_a_module"], "or a function that returns one, got int"),
        ([TAGGER, "--vocabulary", "{tmp}/v.json"], "vocabulary: only a model of tokens"),
        ([TAGGER, "--vocabulary", "{tmp}/none.json"], "No such file"),
        ([TAGGER, "--vocabulary", "{tmp}/garbage.pt"], "vocabulary: "),
        (["{tmp}/best.pt", "--vocabulary", "{tmp}/v.json"], "vocabulary: has 2 entries, the model scores 12"),
        ([TAGGER, "--opset", "22"], "opset: expected 18 to 21, got 22"),
        ([TAGGER, "--tolerance", "-1"], "tolerance: expected a positive number"),
        ([TAGGER, "--text", "{tmp}/none.txt"], "No such file"),
        ([TAGGER, "--gates"], "gates: only a model of conveyor-train can be made to give them, not Tagger"),
        ([TAGGER, "--int8"], "int8: ONNX Runtime has an int8 kernel for LSTM, none for GRU"),
        (["{tmp}/best.pt", "--text", "{tmp}/short.txt"], "text: too short"),
        ([TAGGER, "--tolerance", "1e-12"], "more than the tolerance 1e-12"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    message: str,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever is wrong, the command says it in one line, exits with 1 and writes nothing."""
    (tmp_path / "garbage.pt").write_bytes(b"not a checkpoint")
    (tmp_path / "empty.pt").touch()
    torch.save({"weights": torch.zeros(2)}, tmp_path / "foreign.pt")
    (tmp_path / "v.json").write_text('["a", "b"]')
    (tmp_path / "short.txt").write_text("a")
    source, *options = [argument.format(tmp=tmp_path) for argument in arguments]

    assert main([source, str(tmp_path / "m.onnx"), *options]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("conveyor-export: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "m.onnx").exists()

"""The `conveyor-train` command on a small text: it learns, stops, goes on exactly, and writes what export reads."""

import json
import math
import random
import shlex
from pathlib import Path

import pytest
import torch

from conveyor_export import run as runs
from conveyor_export import train
from conveyor_export.history import Epoch, History
from conveyor_export.language_model import load_checkpoint
from conveyor_export.learning_curve import main as draw
from conveyor_export.run import Run

SMALL = ["--layers", "1", "--hidden", "16", "--embedding", "8", "--dropout", "0.1"]
SMALL += ["--batch", "8", "--window", "16", "--rate", "0.02", "--seed", "3"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text that can be learned: the same words in random order."""
    words = random.Random(0).choices(["the ", "belt ", "carries ", "a ", "state "], k=2000)
    path = tmp_path_factory.mktemp("corpus") / "words.txt"
    path.write_text("".join(words))
    return path


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "last.pt", weights_only=True)["trainer"]["model"]


def test_trains_and_writes_what_export_reads(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss falls; the folder, named for the corpus, holds checkpoint, history and curve; scores are told."""
    monkeypatch.chdir(tmp_path)
    assert train.main([str(corpus), "--epochs", "3", *SMALL]) == 0

    folder, length = tmp_path / "runs" / "words", len(corpus.read_text())
    history = History.load(folder / "history.json")
    assert len(history.epochs) == 3
    assert history.epochs[-1].validation < 1.2 < 3 < history.losses[0]
    assert history.epochs[-1].num_updates == len(history.losses)
    assert history.epochs[-1].num_characters == 3 * 8 * ((length - 2 * int(0.05 * length)) // 8 - 1)
    assert (folder / "learning_curve.png").stat().st_size > 10_000
    model, symbols, provenance = load_checkpoint(folder / "best.pt")
    assert symbols[1:] == sorted(set(corpus.read_text()))
    assert not model.training
    scores = provenance["training_bits_per_character"]
    assert scores["validation"] == pytest.approx(history.best.validation, abs=1e-4)
    assert f"{scores['validation']:.4f} validation, {scores['test']:.4f} test" in capsys.readouterr().out


def test_resume_goes_on_exactly(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run interrupted in its second epoch and resumed ends with the very weights of one that was not."""
    arguments = [str(corpus), "--epochs", "2", *SMALL]
    assert train.main([*arguments, "--out", str(tmp_path / "whole")]) == 0

    run_epoch, started = Run.run_epoch, []

    def interrupted(run: Run, on_update: object) -> Epoch:
        started.append(run)

        def stop_midway(bits: float, num: int) -> None:
            if len(started) == 2 and len(started[1].history.losses) > 0:
                raise KeyboardInterrupt

        return run_epoch(run, stop_midway)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "run_epoch", interrupted)
        assert train.main([*arguments, "--out", str(tmp_path / "cut")]) == 130
    assert len(History.load(tmp_path / "cut" / "history.json").epochs) == 1
    advised, _, _ = capsys.readouterr().err.partition(" goes on after the last whole epoch\n")
    command = shlex.split(advised.rpartition("stopped; ")[2])
    assert command == ["conveyor-train", str(corpus), "--resume", "--out", str(tmp_path / "cut")]
    assert train.main(command[1:]) == 0

    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    histories = [History.load(tmp_path / name / "history.json") for name in ("whole", "cut")]
    assert histories[0].losses == histories[1].losses


def test_stop_in_the_first_epoch_promises_nothing(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before an epoch is whole there is nothing to resume, and no command is advised."""

    def interrupted(run: Run, on_update: object) -> Epoch:
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "run_epoch", interrupted)
    assert train.main([str(corpus), *SMALL, "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err.endswith("stopped; no epoch was whole, so there is nothing to resume\n")


def test_starts_from_another_run(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run may begin with another's weights, with settings and a history of its own; other sizes are refused."""
    arguments = [str(corpus), "--epochs", "1", *SMALL, "--out"]
    assert train.main([*arguments, str(tmp_path / "a")]) == 0
    arguments = [str(corpus), "--start-from", str(tmp_path / "a"), "--epochs", "2", *SMALL, "--weight-decay", "0.1"]
    assert train.main([*arguments, "--out", str(tmp_path / "b")]) == 0

    first, second = (History.load(tmp_path / name / "history.json") for name in ("a", "b"))
    assert second.losses[0] < first.losses[0] - 1
    assert len(second.epochs) == 2
    assert load_checkpoint(tmp_path / "b" / "best.pt")[2]["started_from"]["epochs"] == 1
    capsys.readouterr()
    assert train.main([*arguments, "--hidden", "32", "--out", str(tmp_path / "c")]) == 1
    assert "start-from: a model of other sizes" in capsys.readouterr().err


def test_stops_early(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without gain for `patience` epochs the run ends, and the best epoch's model is kept."""
    # A rate at which nothing is learned: validation cannot keep improving.
    options = [*SMALL, "--rate", "30", "--patience", "1", "--epochs", "30", "--out", str(tmp_path)]
    assert train.main([str(corpus), *options]) == 0

    history = History.load(tmp_path / "history.json")
    assert 1 < len(history.epochs) < 30
    assert history.num_epochs_without_gain == 1
    assert "(stopped early)" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "best.pt")[2]["epoch"] == len(history.epochs) - 1


def test_validation_that_is_no_number_is_never_the_best(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A first epoch that ends in NaN gives way to the second; a run of nothing else ends in one line."""
    evaluate, scores = runs.evaluate, iter([math.nan])
    monkeypatch.setattr(runs, "evaluate", lambda *arguments: next(scores, None) or evaluate(*arguments))
    assert train.main([str(corpus), "--epochs", "2", *SMALL, "--out", str(tmp_path / "a")]) == 0
    assert load_checkpoint(tmp_path / "a" / "best.pt")[2]["epoch"] == 2

    monkeypatch.setattr(runs, "evaluate", lambda *arguments: math.nan)
    options = ["--epochs", "5", "--patience", "2", *SMALL, "--out", str(tmp_path / "b")]
    assert train.main([str(corpus), *options]) == 1
    assert "conveyor-train: validation: not a number after any epoch" in capsys.readouterr().err
    assert len(History.load(tmp_path / "b" / "history.json").epochs) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/none.txt"], "No such file"),
        (["{corpus}", "--out", "{tmp}/busy"], "busy holds a run: give --resume"),
        (["{corpus}", "--out", "{tmp}/new", "--resume"], "new holds no run"),
        (["{corpus}", "--out", "{tmp}/busy", "--resume"], "busy/last.pt: not the state of a run"),
        (["{corpus}", "--out", "{tmp}/new", "--start-from", "{tmp}"], "No such file"),
        (["{corpus}", "--out", "{tmp}/new", "--epochs", "0"], "num_epochs: expected a positive number"),
        (["{corpus}", "--out", "{tmp}/new", "--tied"], "tied: embedding_size 128 differs from hidden_size 576"),
        (["{tmp}/short.txt", "--out", "{tmp}/new"], "too short"),
        (["{tmp}/short.txt", "--out", "{tmp}/new", "--batch", "1"], "too short"),
        (["{corpus}", "--out", "{tmp}/new", "--threads", "-1"], "threads: expected 0 or more, got -1"),
        (["{corpus}", "--out", "{tmp}/new", "--dropout", "2"], "dropout: expected a share from 0 to less than 1"),
        (["{corpus}", "--out", "{tmp}/new", "--embedding", "-1"], "embedding_size: expected a positive number"),
        (["{corpus}", "--out", "{tmp}/new", "--rename", "7"], "rename_share: expected a share from 0 to 1"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], message: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is wrong, the command says it in one line and exits with 1."""
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy" / "last.pt").touch()
    (tmp_path / "short.txt").write_text("too short")

    assert train.main([argument.format(tmp=tmp_path, corpus=corpus) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("conveyor-train: ")
    assert error.count("\n") == 1


def test_resume_refuses_another_corpus(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run does not go on with a text that it was not started with."""
    assert train.main([str(corpus), "--epochs", "1", *SMALL, "--out", str(tmp_path / "run")]) == 0
    other = tmp_path / "other.txt"
    other.write_text(corpus.read_text().replace("belt", "cart"))

    assert train.main([str(other), "--resume", "--out", str(tmp_path / "run")]) == 1
    assert "corpus: not the one" in capsys.readouterr().err


def test_learning_curve_of_a_history_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A picture can be drawn from a history alone; a file that is none is named."""
    history = History([5.0, 4.0, 3.0, 2.5], [Epoch(2, 200, 4.2, 1.0), Epoch(4, 400, 2.9, 2.0)])
    history.save(tmp_path / "history.json")
    (tmp_path / "other.json").write_text(json.dumps({"losses": []}))

    assert History.load(tmp_path / "history.json") == history
    assert history.best == history.epochs[1]
    assert draw([str(tmp_path / "history.json"), str(tmp_path / "curve.svg")]) == 0
    assert "validation" in (tmp_path / "curve.svg").read_text()
    assert draw([str(tmp_path / "other.json"), str(tmp_path / "curve.png")]) == 1
    assert "other.json: not a training history" in capsys.readouterr().err
    assert draw([]) == 2

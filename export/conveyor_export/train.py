"""The `conveyor-train` command."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from conveyor_export.corpus import read_text, split_corpus
from conveyor_export.language_model import CELLS, LanguageModel, LanguageModelConfig
from conveyor_export.ranges import check_not_negative
from conveyor_export.run import Run, read_configs
from conveyor_export.training import TrainingConfig, build_vocabulary

DEFAULT_CORPUS = Path("data/shakespeare.txt.xz")
_STOPPED = 130  # what a shell gives a command that an interrupt ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    folder = options.out or Path("runs") / options.corpus.name.partition(".")[0]
    try:
        _train(_start(options, folder))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"conveyor-train: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"\nstopped; {_advice(options, folder)}\n")
        return _STOPPED
    return 0


def _advice(options: argparse.Namespace, folder: Path) -> str:
    if not (folder / "last.pt").exists():
        return "no epoch was whole, so there is nothing to resume"
    corpus = [] if options.corpus == DEFAULT_CORPUS else [str(options.corpus)]
    command = shlex.join(["conveyor-train", *corpus, "--resume", "--out", str(folder)])
    return f"{command} goes on after the last whole epoch"


def _start(options: argparse.Namespace, folder: Path) -> Run:
    _check_folder(folder, options.resume)
    check_not_negative(options, "threads")
    if options.threads:
        torch.set_num_threads(options.threads)
    split = split_corpus(read_text(options.corpus))
    symbols = build_vocabulary("".join(work.text for work in split.training))
    model_config, config = read_configs(folder) if options.resume else _configs(options, len(symbols))
    torch.manual_seed(config.seed)
    run = Run(folder, split, symbols, LanguageModel(model_config), config)
    run.provenance["corpus"] = options.corpus.name
    if options.resume:
        run.resume()
    elif options.start_from:
        run.start_from(options.start_from)
    folder.mkdir(parents=True, exist_ok=True)
    _describe(run, sum(len(work.text) for work in split.training))
    return run


def _check_folder(folder: Path, resume: bool) -> None:
    has_run = (folder / "last.pt").exists()
    if has_run and not resume:
        raise ValueError(f"{folder} holds a run: give --resume to go on with it, or another --out")
    if resume and not has_run:
        raise ValueError(f"{folder} holds no run to resume")


def _describe(run: Run, num_characters: int) -> None:
    num_parameters = sum(parameter.numel() for parameter in run.model.parameters())
    learned = f"{num_characters:,} characters of {len(run.symbols)} kinds to learn from"
    tqdm.write(f"{run.folder}: {num_parameters:,} parameters, {learned}")


def _train(run: Run) -> None:
    while not run.is_over:
        number = len(run.history.epochs) + 1
        total = run.trainer.stream_length * run.config.batch_size
        with tqdm(total=total, unit=" chars", unit_scale=True, desc=f"epoch {number}", smoothing=0.05) as bar:
            smooth = _Smooth()

            def show(bits: float, num: int, bar: Any = bar, smooth: "_Smooth" = smooth) -> None:
                bar.set_postfix_str(f"{smooth.add(bits):.3f} bits/char", refresh=False)
                bar.update(num)

            epoch = run.run_epoch(show)
        tqdm.write(f"epoch {number}: validation {epoch.validation:.4f} bits per character, after {epoch.seconds:.0f} s")
    report = run.report()
    reason = "" if report.num_epochs == run.config.num_epochs else " (stopped early)"
    tqdm.write(f"{report.num_epochs} epochs{reason}; best model: {run.folder / 'best.pt'}")
    tqdm.write(f"bits per character: {report.validation:.4f} validation, {report.test:.4f} test")


class _Smooth:
    """A running mean that a single odd window does not move much."""

    def __init__(self) -> None:
        self.value: float | None = None

    def add(self, value: float) -> float:
        self.value = value if self.value is None else 0.95 * self.value + 0.05 * value
        return self.value


def _configs(options: argparse.Namespace, vocabulary_size: int) -> tuple[LanguageModelConfig, TrainingConfig]:
    given = vars(options)
    model = {field.name: given[field.name] for field in fields(LanguageModelConfig) if field.name in given}
    training = {field.name: given[field.name] for field in fields(TrainingConfig) if field.name in given}
    return LanguageModelConfig(vocabulary_size, **model), TrainingConfig(**training)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "conveyor-train",
        description="Trains a character language model, for conveyor-export to export; by default the demo's.",
    )
    add = parser.add_argument
    add("corpus", type=Path, nargs="?", default=DEFAULT_CORPUS, help="a text file, .xz too; default %(default)s")
    add("--out", type=Path, metavar="FOLDER", help="where the run is kept; default runs/NAME-OF-CORPUS")
    add("--resume", action="store_true", help="go on with the run in the folder, with the settings it was started with")
    add("--start-from", type=Path, metavar="FOLDER", help="begin with the weights that another run ended with")
    add("--cell", choices=CELLS, default="lstm", help="kind of recurrent layer; default %(default)s")
    add("--tied", action="store_true", help="share embedding and projection (of equal widths)")
    for flag, name, default, text in _NUMBERS:
        kind = type(default)
        add(flag, dest=name, type=kind, default=default, metavar=kind.__name__, help=f"{text}; default %(default)s")
    return parser


_DEFAULT = TrainingConfig()
_NUMBERS: tuple[tuple[str, str, float, str], ...] = (
    ("--layers", "num_layers", 2, "number of recurrent layers"),
    ("--hidden", "hidden_size", 576, "width of a recurrent layer"),
    ("--embedding", "embedding_size", 128, "width of a symbol's vector"),
    ("--dropout", "dropout", 0.4, "share of features dropped between layers"),
    ("--weight-dropout", "weight_dropout", 0.25, "share of recurrent weights dropped"),
    ("--epochs", "num_epochs", _DEFAULT.num_epochs, "at most so many epochs"),
    ("--patience", "patience", _DEFAULT.patience, "stop after so many epochs without gain"),
    ("--batch", "batch_size", _DEFAULT.batch_size, "parallel streams"),
    ("--window", "window_length", _DEFAULT.window_length, "steps per update"),
    ("--rate", "learning_rate", _DEFAULT.learning_rate, "highest learning rate"),
    ("--warmup", "warmup_updates", _DEFAULT.warmup_updates, "updates until the highest rate"),
    ("--weight-decay", "weight_decay", _DEFAULT.weight_decay, "pull of weights towards zero"),
    ("--rename", "rename_share", _DEFAULT.rename_share, "share of a work's names that each epoch replaces"),
    ("--seed", "seed", _DEFAULT.seed, "of weights, shuffles and dropout"),
    ("--threads", "threads", 0, "0 for as many as PyTorch finds best"),
)


if __name__ == "__main__":
    sys.exit(main())

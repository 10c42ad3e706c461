"""The `conveyor-train` command."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from conveyor_export.corpus import read_text, split_corpus
from conveyor_export.language_model import CELLS, LanguageModel, LanguageModelConfig
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
        sys.stderr.write(f"\nstopped; conveyor-train --resume --out {folder} goes on after the last whole epoch\n")
        return _STOPPED
    return 0


def _start(options: argparse.Namespace, folder: Path) -> Run:
    if options.threads:
        torch.set_num_threads(options.threads)
    has_run = (folder / "last.pt").exists()
    if has_run and not options.resume:
        raise ValueError(f"{folder} holds a run: give --resume to go on with it, or another --out")
    if options.resume and not has_run:
        raise ValueError(f"{folder} holds no run to resume")
    split = split_corpus(read_text(options.corpus))
    symbols = build_vocabulary("".join(work.text for work in split.training))
    model_config, config = read_configs(folder) if options.resume else _configs(options, len(symbols))
    torch.manual_seed(config.seed)
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder, split, symbols, LanguageModel(model_config), config)
    run.provenance |= {"corpus": options.corpus.name}
    if options.resume:
        run.resume()
    elif options.start_from:
        run.start_from(options.start_from)
    num_parameters = sum(parameter.numel() for parameter in run.model.parameters())
    num_characters = sum(len(work.text) for work in split.training)
    tqdm.write(f"{num_parameters:,} parameters, {num_characters:,} characters to learn from, {len(symbols)} symbols")
    return run


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
        tqdm.write(f"epoch {number}: validation {epoch.validation:.4f} bits per character, {epoch.seconds:.0f} s")
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
        description="Trains a character language model, for conveyor-export to export. The defaults make the demo's.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("corpus", type=Path, nargs="?", default=DEFAULT_CORPUS, help="a text file, .xz too")
    add("--out", type=Path, metavar="FOLDER", help="where the run is kept (default: runs/NAME-OF-CORPUS)")
    add("--resume", action="store_true", help="go on with the run in the folder, with the settings it was started with")
    add("--start-from", type=Path, metavar="FOLDER", help="begin with the weights that another run ended with")
    add("--threads", type=int, default=0, help="0: as many as PyTorch finds best")
    add("--cell", choices=CELLS, default="lstm", help="kind of recurrent layer")
    add("--layers", dest="num_layers", type=int, default=2, metavar="N", help="number of recurrent layers")
    add("--hidden", dest="hidden_size", type=int, default=512, metavar="N", help="width of a recurrent layer")
    add("--embedding", dest="embedding_size", type=int, default=128, metavar="N", help="width of a symbol's vector")
    add("--tied", action="store_true", help="share embedding and projection (of equal widths)")
    add("--dropout", type=float, default=0.2, metavar="P", help="share of features dropped between layers")
    _add_training_options(add)
    return parser


def _add_training_options(add: Any) -> None:
    default = TrainingConfig()
    add("--epochs", dest="num_epochs", type=int, default=default.num_epochs, metavar="N", help="at most so many epochs")
    add("--patience", type=int, default=default.patience, metavar="N", help="stop after N epochs without gain")
    add("--batch", dest="batch_size", type=int, default=default.batch_size, metavar="N", help="parallel streams")
    add("--window", dest="window_length", type=int, default=default.window_length, metavar="N", help="steps per update")
    add("--rate", dest="learning_rate", type=float, default=default.learning_rate, metavar="R", help="highest rate")
    add(
        "--warmup",
        dest="warmup_updates",
        type=int,
        default=default.warmup_updates,
        metavar="N",
        help="updates until then",
    )
    add("--weight-decay", type=float, default=default.weight_decay, metavar="D", help="pull of weights towards zero")
    add("--seed", type=int, default=default.seed, help="of weights, shuffles and dropout")


if __name__ == "__main__":
    sys.exit(main())

"""The `conveyor-compare` command."""

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from tqdm import tqdm

from conveyor_export.compare.budget import check_budget, make_model, width_for
from conveyor_export.compare.comparison import BASELINE, Comparison
from conveyor_export.compare.cost import NUM_ROUNDS, measure_costs
from conveyor_export.compare.learning import Outcome, Recipe, judging_batch, learn
from conveyor_export.compare.plots import draw_cost, draw_quality
from conveyor_export.compare.report import make_report
from conveyor_export.compare.synthetic import Adding, Arithmetic, Copying, Timing
from conveyor_export.compare.task import Task, chance
from conveyor_export.compare.text import Text
from conveyor_export.language_model import CELLS
from conveyor_export.machine import cpu_name
from conveyor_export.train import DEFAULT_CORPUS

SYNTHETIC: dict[str, Callable[[], Task]] = {
    "copying": Copying,
    "adding": Adding,
    "arithmetic": Arithmetic,
    "timing": Timing,
}
TASKS = ("text", *SYNTHETIC)
GREFF = (BASELINE, "nig", "nfg", "nog", "niaf", "noaf", "np", "cifg", "fgr")
DEFAULT_CELLS = (*GREFF, "essay_lstm", "essay_gru", "mut1", "min_gru", "elman")
_STOPPED = 130  # what a shell gives a command that an interrupt ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(given)
    try:
        # Models this small only wait for each other's threads.
        torch.set_num_threads(1)
        options.out.mkdir(parents=True, exist_ok=True)
        comparison = _compare(options, shlex.join(["conveyor-compare", *given]))
        _write(comparison, options.out)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"conveyor-compare: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; nothing was written\n")
        return _STOPPED
    return 0


def _compare(options: argparse.Namespace, command: str) -> Comparison:
    recipe, cells = Recipe(options.budget, options.steps, options.seeds), tuple(dict.fromkeys(options.cells))
    tasks = {name: SYNTHETIC[name]() if name in SYNTHETIC else Text(options.corpus) for name in options.tasks}
    for task in tasks.values():
        check_budget(cells, task.vocabulary_size, recipe.num_parameters)
    begun = datetime.now(UTC)
    outcomes = _learn_all(cells, tasks, recipe)
    with tqdm(total=NUM_ROUNDS, desc="step times", unit=" rounds") as bar:
        size = next(iter(tasks.values())).vocabulary_size
        models = {cell: make_model(cell, size, width_for(cell, size, recipe.num_parameters)) for cell in cells}
        costs = measure_costs(models, bar.update)
    chances = {name: chance(judging_batch(task)) for name, task in tasks.items()}
    return Comparison(command, _conditions(begun), recipe, chances, outcomes, costs)


def _learn_all(cells: Sequence[str], tasks: dict[str, Task], recipe: Recipe) -> list[Outcome]:
    outcomes = []
    total = len(cells) * sum(recipe.total_updates(task) for task in tasks.values())
    with tqdm(total=total, unit=" updates", smoothing=0.02) as bar:
        for name, task in tasks.items():
            for cell in cells:
                bar.set_description(f"{name}, {cell}")
                outcomes.append(learn(cell, name, task, recipe, bar.update))
    return outcomes


def _conditions(begun: datetime) -> list[str]:
    minutes = (datetime.now(UTC) - begun).total_seconds() / 60
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime"))
    load = f", load {os.getloadavg()[2]:.1f} at the end" if hasattr(os, "getloadavg") else ""
    return [
        f"{begun:%Y-%m-%d %H:%M} UTC, {minutes:.0f} minutes on one thread of {cpu_name()}, {os.cpu_count()} cores"
        f"{load}.",
        f"Python {platform.python_version()}, {libraries}.",
    ]


def _write(comparison: Comparison, folder: Path) -> None:
    comparison.save(folder / "results.json")
    (folder / "README.md").write_text(make_report(comparison), encoding="utf-8")
    draw_quality(comparison, folder / "quality.png")
    draw_cost(comparison, folder / "cost.png")
    tqdm.write(f"{folder / 'README.md'}: tables; quality.png, cost.png and results.json are beside it")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "conveyor-compare",
        description="Trains architectures of equal numbers of parameters on the same tasks, and measures their steps.",
    )
    recipe, add = Recipe(), parser.add_argument
    add("--cells", nargs="+", choices=CELLS, default=DEFAULT_CELLS, metavar="CELL", help="default: %(default)s")
    add("--tasks", nargs="+", choices=TASKS, default=TASKS, metavar="TASK", help="default: %(default)s")
    add("--corpus", type=Path, default=DEFAULT_CORPUS, metavar="FILE", help="of the task text; default %(default)s")
    add("--out", type=Path, default=Path("runs/compare"), metavar="FOLDER", help="default %(default)s")
    for flag, default, text in (
        ("--budget", recipe.num_parameters, "parameters of each model"),
        ("--steps", recipe.num_steps, "time steps of each training"),
        ("--seeds", recipe.num_seeds, "trainings of each architecture on each task"),
    ):
        add(flag, type=int, default=default, metavar="int", help=f"{text}; default %(default)s")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""Draws the learning curve of a training run.

python -m conveyor_export.learning_curve runs/shakespeare/history.json curve.png
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from conveyor_export.history import History

_SMOOTHED_UPDATES = 25


def draw_learning_curve(history: History, path: Path) -> None:
    """Writes a picture (its format by the name's ending) of bits per character against characters seen."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="characters seen (millions)", ylabel="bits per character")
    _draw_losses(axes, history)
    seen = [epoch.num_characters / 1e6 for epoch in history.epochs]
    axes.plot(seen, [epoch.validation for epoch in history.epochs], "o-", color="tab:orange", label="validation")
    if history.best:
        axes.axhline(history.best.validation, color="tab:orange", linewidth=0.8, linestyle=":")
        axes.set_title(f"best validation {history.best.validation:.3f} bits per character")
    # The first updates, at twice the entropy of letters, would flatten all that follows.
    axes.set_ylim(top=min(3.5, max(history.losses, default=3.5)))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def _draw_losses(axes: Axes, history: History) -> None:
    if len(history.losses) < 2:
        return
    width = min(_SMOOTHED_UPDATES, len(history.losses))
    smooth = np.convolve(history.losses, np.full(width, 1 / width), "valid")
    last = history.epochs[-1] if history.epochs else None
    per_update = last.num_characters / last.num_updates / 1e6 if last else 1e-6
    axes.plot((np.arange(len(smooth)) + width) * per_update, smooth, color="tab:blue", linewidth=1, label="training")


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit status."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m conveyor_export.learning_curve HISTORY.json PICTURE\n")
        return 2
    try:
        draw_learning_curve(History.load(Path(arguments[0])), Path(arguments[1]))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"learning_curve: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

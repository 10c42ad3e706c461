"""Draws rolls as a pianola has them: time to the right, high notes above."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from conveyor_export.composer.playing import Array


def draw_rolls(rows: Mapping[str, Sequence[Array]], path: Path) -> None:
    """Rolls `[T, NUM_KEYS]`, as many in each row; a row has a title."""
    num_columns = max(len(rolls) for rolls in rows.values())
    figure = Figure(figsize=(3.4 * num_columns, 2.2 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), num_columns, squeeze=False)
    for row, (title, rolls) in zip(axes, rows.items(), strict=True):
        row[0].set_title(title, loc="left")
        for each, roll in zip(row, rolls, strict=True):
            each.imshow(roll.T, cmap="Greys", origin="lower", aspect="auto", interpolation="nearest")
            each.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=80)

"""Draws digits side by side, with the windows in which they were painted or looked at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from conveyor_export.painter.painting import Array

_BORDER = 1  # pixels between pictures
_INCHES = 0.8


def draw_grid(rows: Sequence[Array], path: Path, windows: Sequence[Array] = (), num_filters: int = 0) -> None:
    """Rows of pictures, `[T, 8, 8]` each; `windows`, a row's `[T, 5]` each, are drawn on them as frames."""
    num_rows, num_columns = len(rows), len(rows[0])
    figure = Figure(figsize=(_INCHES * num_columns, _INCHES * num_rows))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(_tile(rows), cmap="Greys", vmin=0, vmax=1)
    axes.axis("off")
    side = rows[0].shape[1] + 2 * _BORDER
    for row, windows_of_row in enumerate(windows):
        for column, window in enumerate(windows_of_row):
            axes.add_patch(_frame(window, num_filters, column * side + _BORDER, row * side + _BORDER))
    figure.savefig(path, dpi=80)


def _tile(rows: Sequence[Array]) -> Array:
    """All pictures as one, on grey."""
    padded = [[np.pad(picture, _BORDER, constant_values=0.4) for picture in row] for row in rows]
    return np.vstack([np.hstack(row) for row in padded])


def _frame(window: Array, num_filters: int, left: int, top: int) -> Rectangle:
    """Where the grid's outer filters lie; a window counts pixels from 1."""
    x, y, stride = (float(number) for number in window[:3])
    side = stride * (num_filters - 1)
    corner = (left + x - 1 - side / 2, top + y - 1 - side / 2)
    return Rectangle(corner, side, side, fill=False, edgecolor="tab:red", linewidth=1)

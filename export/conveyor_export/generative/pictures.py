"""Pictures of what the generative demos draw."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

Array = NDArray[np.float32]


def draw_glimpses(rows: Sequence[tuple[Sequence[Array], Array]], num_filters: int, path: Path) -> None:
    """A column for each glimpse: pictures `[height, width]`, and the windows `[T, 5]` on them as frames."""
    figure, axes = _grid(len(rows), len(rows[0][1]))
    for row, (pictures, windows) in zip(axes, rows, strict=True):
        for each, picture, window in zip(row, pictures, windows, strict=True):
            _show(each, picture)
            _frame(each, window, num_filters)
    figure.savefig(path, dpi=80)


def draw_grid(pictures: Sequence[Sequence[Array]], path: Path) -> None:
    """Rows of pictures `[height, width]`."""
    figure, axes = _grid(len(pictures), len(pictures[0]))
    for row, pictures_of_row in zip(axes, pictures, strict=True):
        for each, picture in zip(row, pictures_of_row, strict=True):
            _show(each, picture)
    figure.savefig(path, dpi=80)


def draw_rolls(rolls: dict[str, Sequence[Array]], path: Path) -> None:
    """Piano rolls `[T, keys]`, a row for each title."""
    num_columns = max(len(row) for row in rolls.values())
    figure, axes = _figure(len(rolls), num_columns, (3.2 * num_columns, 2 * len(rolls)))
    for row, (title, arrays) in zip(axes, rolls.items(), strict=True):
        for each, roll in zip(row, arrays, strict=True):
            each.imshow(roll.T, cmap="Greys", origin="lower", aspect="auto", interpolation="nearest", vmin=0, vmax=1)
            each.set(xticks=[], yticks=[])
        row[0].set_title(title, loc="left")
    figure.savefig(path, dpi=80)


def _grid(num_rows: int, num_columns: int) -> tuple[Figure, NDArray[np.object_]]:
    return _figure(num_rows, num_columns, (0.8 * num_columns, 0.8 * num_rows))


def _figure(num_rows: int, num_columns: int, inches: tuple[float, float]) -> tuple[Figure, NDArray[np.object_]]:
    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(num_rows, num_columns, squeeze=False)


def _show(axes: Axes, picture: Array) -> None:
    axes.imshow(picture, cmap="Greys", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])


def _frame(axes: Axes, window: Array, num_filters: int) -> None:
    """Where the grid's outer filters lie; a window counts pixels from 1, a picture from 0."""
    x, y, stride = (float(number) for number in window[:3])
    side = stride * (num_filters - 1)
    corner = (x - 1 - side / 2, y - 1 - side / 2)
    axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor="tab:red", linewidth=1))

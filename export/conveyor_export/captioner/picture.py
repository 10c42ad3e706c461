"""Draws images, what was read of them, and where the model looked for each letter."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from conveyor_export.captioner.reading import Caption
from conveyor_export.digits import MOST_LETTERS

_PER_ROW = 2
_CELLS = MOST_LETTERS + 2  # the image, its letters, and the end


def draw_captions(images: NDArray[np.float32], captions: Sequence[Caption], path: Path) -> None:
    """Writes a picture: each image, and beside it a copy for each letter, red where the model looked for it."""
    num_rows = -(-len(captions) // _PER_ROW)
    figure = Figure(figsize=(_PER_ROW * _CELLS * 0.8, num_rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(num_rows, _PER_ROW * _CELLS, squeeze=False)
    for each in axes.flat:
        each.axis("off")
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, place = divmod(number, _PER_ROW)
        _draw_caption(list(axes[row, place * _CELLS : (place + 1) * _CELLS]), image, caption)
    figure.savefig(path, dpi=80)


def _draw_caption(axes: Sequence[Axes], image: NDArray[np.float32], caption: Caption) -> None:
    axes[0].imshow(image, cmap="gray_r")
    for each, letter, look in zip(axes[1:], f"{caption.name}.", caption.looks, strict=False):
        each.imshow(image, cmap="gray_r", alpha=0.35)
        each.imshow(look, cmap="Reds", alpha=np.sqrt(look / look.max()))
        each.set_title(letter)

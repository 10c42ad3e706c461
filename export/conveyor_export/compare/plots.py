"""The pictures of a comparison: what was reached on each task, and what a step costs."""

from collections.abc import Sequence
from math import isfinite
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from conveyor_export.compare.comparison import Comparison, mean_score
from conveyor_export.compare.cost import BATCHES


def draw_quality(comparison: Comparison, path: Path) -> None:
    """A panel for each task: a dot for each training, a bar at their mean, a line at chance."""
    figure, panels = _panels(len(comparison.chance), comparison.cells)
    for axes, (task, chance) in zip(panels, comparison.chance.items(), strict=True):
        axes.set(title=task, xlabel="bits per scored token")
        axes.axvline(chance.bits, color="tab:gray", linestyle=":")
        for row, cell in enumerate(comparison.cells):
            bits = [each for each in comparison.bits(cell, task) if isfinite(each)]
            axes.plot(bits, [row] * len(bits), "o", color="tab:blue", alpha=0.5, markersize=4)
            axes.plot(mean_score(comparison.outcome(cell, task).scores).bits, row, "|", color="black", markersize=10)
    figure.savefig(path, dpi=90)


def draw_cost(comparison: Comparison, path: Path) -> None:
    """A panel for each batch with the time of a step, and one with the bytes of a session's state."""
    figure, panels = _panels(len(BATCHES) + 1, comparison.cells)
    for axes, batch in zip(panels, BATCHES, strict=False):
        axes.set(title=f"a step of {batch} sessions" if batch > 1 else "a step of one session", xlabel="µs")
        axes.barh(range(len(comparison.costs)), [cost.step_seconds[batch] * 1e6 for cost in comparison.costs])
    panels[-1].set(title="state of a session", xlabel="bytes")
    panels[-1].barh(range(len(comparison.costs)), [cost.state_bytes for cost in comparison.costs])
    figure.savefig(path, dpi=90)


def _panels(number: int, cells: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Axes side by side that share one row for each cell, the first on top."""
    figure = Figure(figsize=(2 + 2.2 * number, 1.2 + 0.25 * len(cells)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, number, sharey=True, squeeze=False)[0])
    panels[0].set_yticks(range(len(cells)), cells)
    panels[0].invert_yaxis()
    for axes in panels:
        axes.grid(alpha=0.3, axis="x")
    return figure, panels

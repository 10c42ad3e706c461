"""The page that a comparison writes: its conditions, what was reached, and what it costs."""

from collections.abc import Callable, Iterator, Sequence

from conveyor_export.compare.comparison import BASELINE, Comparison, mean_score
from conveyor_export.compare.cost import BATCHES, Cost
from conveyor_export.compare.learning import BATCH_SIZE, RATES
from conveyor_export.compare.task import Score

# The essay's LSTM, whose step the others' are put in proportion to.
REFERENCE = "essay_lstm"


def make_report(comparison: Comparison) -> str:
    """The whole page."""
    parts = [_conditions(comparison), _bits(comparison), _accuracies(comparison), _costs(comparison)]
    if BASELINE in comparison.cells:
        parts.insert(3, _signs(comparison))
    return "# Comparison of architectures\n\n" + "\n\n".join(parts) + "\n"


def _conditions(comparison: Comparison) -> str:
    recipe = comparison.recipe
    facts = [
        *comparison.conditions,
        f"Every model has one layer, an embedding of the layer's width and a projection; the width is that at which the"
        f" whole has {recipe.num_parameters:,} parameters, as nearly as can be.",
        f"A training reads {recipe.num_steps:,} time steps of {BATCH_SIZE} sequences side by side. All architectures"
        " get the same sequences, the same number of updates and the same optimiser, Adam along half a cosine.",
        f"Trainings start from {recipe.num_seeds} seeds. Each architecture has on each task the rate of"
        f" {', '.join(f'{rate:g}' for rate in RATES)} that is best on validation data from the first seed.",
    ]
    lines = ["Made by this command; do not edit.", "", "```sh", comparison.command, "```", ""]
    return "\n".join([*lines, *(f"- {fact}" for fact in facts)])


def _bits(comparison: Comparison) -> str:
    def show(scores: Sequence[Score]) -> str:
        bits = [score.bits for score in scores]
        return f"{mean_score(scores).bits:.2f} ({min(bits):.2f} to {max(bits):.2f})"

    about = (
        "Bits per scored token on sequences that were not learned from, the mean of the seeds and the range; the less"
        " the better. Chance knows how often each answer occurs, and nothing of the sequence."
    )
    return _quality("Bits", about, comparison, lambda score: f"{score.bits:.2f}", show)


def _accuracies(comparison: Comparison) -> str:
    def show(score: Score) -> str:
        return f"{score.accuracy:.1%}"

    about = "The share of scored tokens that were named right, the mean of the seeds."
    return _quality("Accuracy", about, comparison, show, lambda scores: show(mean_score(scores)))


def _quality(
    title: str,
    about: str,
    comparison: Comparison,
    show_chance: Callable[[Score], str],
    show: Callable[[Sequence[Score]], str],
) -> str:
    rows = [["chance", *map(show_chance, comparison.chance.values())]]
    for cell in comparison.cells:
        rows.append([cell, *(show(comparison.outcome(cell, task).scores) for task in comparison.chance)])
    return _section(title, about, ["architecture", *comparison.chance], rows)


def _signs(comparison: Comparison) -> str:
    others = [cell for cell in comparison.cells if cell != BASELINE]
    rows = [[cell, *(comparison.sign(cell, task) or "-" for task in comparison.chance)] for cell in others]
    about = (
        f"Against `{BASELINE}`: worse or better where every training of the one ended with more or fewer bits than"
        " every training of the other, a dash where the ranges overlap."
    )
    return _section("Signs", about, ["architecture", *comparison.chance], rows)


def _costs(comparison: Comparison) -> str:
    reference = next((cost for cost in comparison.costs if cost.cell == REFERENCE), None)
    about = (
        f"Of the models of {next(iter(comparison.chance))}. A step is one run of the server's runner on one thread, the"
        " best token of each session included; medians of runs that took turns."
    )
    headings = ["architecture", "width", "parameters", "state bytes"]
    for batch in BATCHES:
        headings += [f"µs, batch {batch}", *([f"÷ {REFERENCE}"] if reference else [])]
    return _section("Cost", about, headings, [list(_cost_row(cost, reference)) for cost in comparison.costs])


def _cost_row(cost: Cost, reference: Cost | None) -> Iterator[str]:
    yield from (cost.cell, str(cost.width), f"{cost.num_parameters:,}", f"{cost.state_bytes:,}")
    for batch, seconds in cost.step_seconds.items():
        yield f"{seconds * 1e6:.0f}"
        if reference:
            yield f"{seconds / reference.step_seconds[batch]:.2f}"


def _section(title: str, about: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (headings, ["---", *["---:"] * (len(headings) - 1)], *rows)]
    return "\n".join([f"## {title}", "", about, "", *lines])

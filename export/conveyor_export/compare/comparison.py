"""What a comparison found, and its file."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from conveyor_export.compare.cost import Cost
from conveyor_export.compare.learning import Outcome, Recipe
from conveyor_export.compare.task import Score

# What the others are held against: the architecture whose parts Greff and others (2015) remove one by one.
BASELINE = "peephole_lstm"


@dataclass(frozen=True, slots=True)
class Comparison:
    """All outcomes, and what is reached on each task by knowing nothing of the sequence."""

    command: str
    conditions: list[str]
    recipe: Recipe
    chance: dict[str, Score]
    outcomes: list[Outcome]
    costs: list[Cost]

    @property
    def cells(self) -> list[str]:
        """The architectures in their order."""
        return [cost.cell for cost in self.costs]

    def outcome(self, cell: str, task: str) -> Outcome:
        """Of one architecture on one task."""
        return next(each for each in self.outcomes if (each.cell, each.task) == (cell, task))

    def sign(self, cell: str, task: str) -> str:
        """`worse` or `better` if every training of the cell is so than every one of the baseline's, else empty."""
        ours, others = self.bits(cell, task), self.bits(BASELINE, task)
        if min(ours) > max(others):
            return "worse"
        return "better" if max(ours) < min(others) else ""

    def bits(self, cell: str, task: str) -> list[float]:
        """Bits per scored token of each training."""
        return [score.bits for score in self.outcome(cell, task).scores]

    def save(self, path: Path) -> None:
        """Writes all of it as JSON. A score that is infinite, of a training that ended in no numbers, is null."""
        path.write_text(json.dumps(_finite(asdict(self)), indent=1) + "\n", encoding="utf-8")


def mean_score(scores: Sequence[Score]) -> Score:
    """The mean of bits and of accuracies."""
    return Score(fmean(score.bits for score in scores), fmean(score.accuracy for score in scores))


def _finite(value: object) -> object:
    # JSON has no infinity.
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and math.isinf(value) else value

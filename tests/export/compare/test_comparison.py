"""What is concluded from scores, and their file."""

import json
import math
from pathlib import Path

import pytest

from conveyor_export.compare.comparison import Comparison
from conveyor_export.compare.cost import Cost
from conveyor_export.compare.learning import Outcome, Recipe
from conveyor_export.compare.report import make_report
from conveyor_export.compare.task import Score


def comparison(bits: dict[str, list[float]]) -> Comparison:
    outcomes = [
        Outcome(cell, "timing", 8, 1000, {0.01: Score(1.0, 0.5)}, 0.01, [Score(each, 0.5) for each in values])
        for cell, values in bits.items()
    ]
    costs = [Cost(cell, 8, 1000, 64, {1: 1e-5, 64: 4e-5}) for cell in bits]
    return Comparison("conveyor-compare", [], Recipe(), {"timing": Score(3.0, 0.1)}, outcomes, costs)


@pytest.mark.parametrize(
    ("bits", "sign"), [([2.1, 3.0], "worse"), ([2.0, 3.0], ""), ([0.5, 1.0], ""), ([0.5, 0.9], "better")]
)
def test_a_sign_needs_ranges_apart(bits: list[float], sign: str) -> None:
    """One training that is as good as the other's worst, or as bad as its best, leaves the sign open."""
    assert comparison({"peephole_lstm": [1.0, 2.0], "nfg": bits}).sign("nfg", "timing") == sign


def test_a_training_that_ran_away_is_null(tmp_path: Path) -> None:
    """The file is JSON that every reader takes, and the other scores stay."""
    comparison({"elman": [math.inf, 2.0]}).save(tmp_path / "results.json")

    (outcome,) = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)["outcomes"]
    assert [score["bits"] for score in outcome["scores"]] == [None, 2.0]


def test_without_the_baseline_there_are_no_signs() -> None:
    """A comparison of other architectures has all tables but those that need the absent ones."""
    report = make_report(comparison({"elman": [1.0, 2.0]}))

    assert "| elman | 1.50 (1.00 to 2.00) |" in report
    assert "| elman | 8 | 1,000 | 64 | 10 | 40 |" in report
    assert "Signs" not in report
    assert "essay_lstm" not in report

"""Widths for a number of parameters."""

import pytest

from conveyor_export.compare.budget import make_model, num_parameters, width_for
from conveyor_export.language_model import CELLS


@pytest.mark.parametrize("cell", CELLS)
def test_every_architecture_is_near_the_budget(cell: str) -> None:
    """The whole model is within 4% of what was asked for."""
    model = make_model(cell, 72, width_for(cell, 72, 24_000))

    assert num_parameters(model) == pytest.approx(24_000, rel=0.04)


def test_the_nearest_width_is_taken() -> None:
    """A budget of exactly one width's parameters gives that width, and one parameter more or less does too."""
    size = num_parameters(make_model("elman", 10, 20))

    assert [width_for("elman", 10, budget) for budget in (size - 1, size, size + 1)] == [20, 20, 20]


def test_a_width_that_cannot_be_is_passed_over() -> None:
    """RWKV-7 has heads of four at least, however small the budget."""
    assert width_for("rwkv7", 10, 1) == 4

"""Training up a bound."""

from pathlib import Path

import torch
from torch import nn

from conveyor_export.generative.fitting import Plan, fit, fit_once

PLAN = Plan(num_updates=300, learning_rate=0.1, clip_norm=5)


class Point(nn.Module):
    """A number to move."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(()))


def test_a_bound_is_raised_to_its_top() -> None:
    """The parameter ends where the bound is largest."""
    point = Point()

    fit(point, lambda: -((point.place - 3) ** 2), PLAN)

    torch.testing.assert_close(point.place.detach(), torch.tensor(3.0), atol=1e-2, rtol=0)
    assert not point.training


def test_a_second_run_takes_the_weights_of_the_first(tmp_path: Path) -> None:
    """What an earlier run left is read, and not trained again."""
    first, second, path = Point(), Point(), tmp_path / "runs" / "point.pt"
    fit_once(first, lambda: -((first.place - 3) ** 2), PLAN, path)

    fit_once(second, lambda: -((second.place + 3) ** 2), PLAN, path)

    assert torch.equal(second.place, first.place)

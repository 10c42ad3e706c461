"""Training up a bound."""

import torch
from torch import nn

from conveyor_export.generative.fitting import Plan, fit

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

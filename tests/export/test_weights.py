"""Weights that are trained once."""

from pathlib import Path

import pytest
import torch
from torch import nn

from conveyor_export.weights import train_once


def set_to(layer: nn.Linear, value: float) -> None:
    """A training whose end is known."""
    nn.init.constant_(layer.weight, value)


def test_a_second_run_takes_the_weights_of_the_first(tmp_path: Path) -> None:
    """What an earlier run left is read, and not trained again."""
    first, second, path = nn.Linear(2, 2), nn.Linear(2, 2), tmp_path / "runs" / "layer.pt"
    train_once(first, path, lambda: set_to(first, 3))

    train_once(second, path, lambda: set_to(second, 4))

    assert torch.equal(first.weight, torch.full((2, 2), 3.0))
    assert torch.equal(second.weight, first.weight)
    assert not first.training
    assert not second.training


def test_nothing_is_trained_for_a_file_that_cannot_be(tmp_path: Path) -> None:
    """A folder that cannot be made is told of before the training, which takes its time."""
    (tmp_path / "runs").write_text("a file")

    with pytest.raises(OSError, match="runs"):
        train_once(nn.Linear(2, 2), tmp_path / "runs" / "layer.pt", lambda: pytest.fail("trained"))

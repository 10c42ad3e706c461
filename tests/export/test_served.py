"""A running server held against PyTorch."""

import asyncio
import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from conveyor.client import connect
from conveyor.server import start_server
from conveyor.settings import Settings
from conveyor_export.export import export_model
from conveyor_export.models import MODELS
from conveyor_export.served import served_difference
from tests.export.custom_modules import Opened


async def differences(module: nn.Module, others: list[nn.Module], folder: Path) -> list[float]:
    """How far a server of the one module is from each of the others."""
    export_model(module, folder / "m" / "1" / "model.onnx")
    settings = Settings(models=folder, port=0, metrics_port=0, store="none", num_threads=1, num_slots=2, max_batch=2)
    async with await start_server(settings) as server, connect(server.address) as client:
        return [await served_difference(client, "m", other) for other in others]


def spoilt(module: nn.Module, name: str) -> nn.Module:
    """A copy with one weight moved."""
    other = copy.deepcopy(module)
    with torch.no_grad():
        other.get_parameter(name).add_(0.1)
    return other


@pytest.mark.parametrize("weight", ["first.bias", "look.bias", "cell.bias_hh"])
def test_a_difference_is_found(weight: str, tmp_path: Path) -> None:
    """The same module is within rounding; another first state, computed context or step is not."""
    torch.manual_seed(0)
    module = Opened().eval().requires_grad_(False)

    same, other = asyncio.run(differences(module, [module, spoilt(module, weight)], tmp_path))
    assert same < 1e-5 < 1e-3 < other


def test_what_is_no_number_is_no_agreement(tmp_path: Path) -> None:
    """A NaN on one side alone, in the last session as in the first, counts as the largest difference there is."""
    torch.manual_seed(0)
    module = Opened().eval().requires_grad_(False)
    broken = copy.deepcopy(module)
    broken.cell.bias_hh[0] = torch.nan

    assert asyncio.run(differences(module, [broken], tmp_path)) == [math.inf]


def test_noise_is_the_server_s(tmp_path: Path) -> None:
    """Hard attention looks where PyTorch does with the numbers that the server draws, and a module without them not."""
    torch.manual_seed(0)
    drawn, greedy = (MODELS[name]().eval().requires_grad_(False) for name in ("xu_hard", "xu_argmax"))
    greedy.load_state_dict(drawn.state_dict())

    same, other = asyncio.run(differences(drawn, [drawn, greedy], tmp_path))
    assert same < 1e-5 < 1 <= other

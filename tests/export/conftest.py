"""What the export tests share."""

import functools
from collections.abc import Iterator

import pytest
import torch
from torch.onnx._internal.exporter import _registration


@pytest.fixture(scope="session", autouse=True)
def operator_library() -> Iterator[None]:
    """PyTorch reads its library of operators anew for each export, half of an export's time: read it once here."""
    with pytest.MonkeyPatch.context() as patch:
        original = _registration.ONNXRegistry.from_torchlib
        patch.setattr(_registration.ONNXRegistry, "from_torchlib", staticmethod(functools.cache(original)))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Models this small only wait for each other's threads."""
    torch.set_num_threads(1)

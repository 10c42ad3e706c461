"""Every architecture of the registry, and PyTorch's own layers: proven, fit for a GPU, served with their states."""

import asyncio
from dataclasses import replace

import onnx
import pytest

from conveyor.graph.placement import CUDA, cuda_placement
from conveyor_export.language_model import CELLS, NATIVE
from conveyor_export.models import MODELS
from conveyor_export.served import CUTS
from conveyor_export.zoo import NUM_SLOTS, Line, measure

NAMES = (*CELLS, *MODELS)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[Line]:
    return asyncio.run(measure(NAMES, tmp_path_factory.mktemp("zoo")))


def test_graph_and_server_answer_as_pytorch_does(lines: list[Line]) -> None:
    """In each row the proven graph, and sessions of the server that take turns in its slots, are within 1e-4."""
    assert [line.name for line in lines] == list(NAMES)
    assert [line.name for line in lines if not line.holds] == []
    assert len(CUTS) > NUM_SLOTS


def test_a_row_that_strays_does_not_hold(lines: list[Line]) -> None:
    """A difference of the server alone is enough to fail a row."""
    assert not replace(lines[0], served_difference=2e-4).holds


def test_each_row_runs_on_a_gpu_whole(lines: list[Line]) -> None:
    """No node is one that ONNX Runtime's CUDA provider would leave to the CPU."""
    assert [line.name for line in lines if line.name not in NATIVE and line.num_off_cuda] == []


def test_a_node_off_the_gpu_is_seen() -> None:
    """The rule that the rows keep can be broken: peepholes on ONNX's own operator are not for CUDA."""
    node = onnx.helper.make_node("LSTM", ["x", "W", "R", "", "", "h", "c", "P"], ["y"], hidden_size=8)
    graph = onnx.helper.make_graph([node], "g", [], [])

    assert [each.provider == CUDA for each in cuda_placement(onnx.helper.make_model(graph))] == [False]

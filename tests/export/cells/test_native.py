"""Cells that are one ONNX operator."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from conveyor.graph.arena import Scatter
from conveyor.graph.model_file import read_model
from conveyor.graph.placement import CUDA, cuda_placement
from conveyor.graph.serving import build_serving_graph
from conveyor_export import export_model
from conveyor_export.cells.native import native_layers
from conveyor_export.cells.registry import ROWS
from conveyor_export.language_model import LanguageModel, LanguageModelConfig

OPERATORS = {"essay_lstm": "LSTM", "np": "LSTM", "gru_reset_after": "GRU"}


def make(cell: str) -> LanguageModel:
    torch.manual_seed(0)
    model = LanguageModel(LanguageModelConfig(12, 6, 8, 2, cell=cell)).eval()
    for parameter in model.parameters():  # biases that start at zero would prove nothing
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("cell", OPERATORS)
def test_the_operator_is_the_cell(cell: str, tmp_path: Path) -> None:
    """Layers are one operator each, proven for chunks of any length, ragged and whole on a GPU."""
    report = export_model(make(cell), tmp_path / "model.onnx")
    model = read_model(report.path)

    assert report.proof.difference <= 1e-5
    assert report.signature.fixed_steps is None
    assert Counter(node.op_type for node in model.proto.graph.node)[OPERATORS[cell]] == 2
    graph = build_serving_graph(model, num_rows=None, scatter=Scatter.ELEMENTS)
    assert graph.is_ragged
    assert {node.provider for node in cuda_placement(graph.proto)} == {CUDA}


@pytest.mark.parametrize("cell", [name for name in ROWS if name not in OPERATORS])
def test_other_cells_are_none(cell: str) -> None:
    """What an operator would compute otherwise, or elsewhere, stays a graph of one step."""
    assert native_layers(ROWS[cell].make(8, 8, 2, 0.0)) == []
    assert LanguageModel(LanguageModelConfig(12, 8, 8, 2, cell=cell)).signature().fixed_steps == 1

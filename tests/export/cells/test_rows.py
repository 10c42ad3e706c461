"""Every architecture of the registry: exported with proof, fit for a GPU, and served with its states."""

import asyncio
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from conveyor.client import Client, connect
from conveyor.graph.arena import Scatter
from conveyor.graph.model_file import read_model
from conveyor.graph.placement import CUDA, cuda_placement
from conveyor.graph.serving import build_serving_graph
from conveyor.server import start_server
from conveyor.settings import Settings
from conveyor_export import ExportReport, export_model
from conveyor_export.cells.registry import ROWS
from conveyor_export.language_model import LanguageModel, LanguageModelConfig

VOCABULARY, SIZE, NUM_LAYERS = 11, 8, 2
TOLERANCE = 1e-4
# How three sessions cut their fourteen steps: at no time are all at the same position.
CUTS = ((14,), (1, 6, 1, 6), (3, 3, 5, 2, 1))

Exported = dict[str, tuple[LanguageModel, ExportReport]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exported]:
    """A repository of one model for each row, every weight random, with the modules that they were made of."""
    folder, models = tmp_path_factory.mktemp("rows"), {}
    torch.manual_seed(0)
    for name in ROWS:
        model = LanguageModel(LanguageModelConfig(VOCABULARY, SIZE, SIZE, NUM_LAYERS, name)).eval()
        for parameter in model.parameters():  # zero peepholes and biases would prove nothing
            parameter.data += 0.3 * torch.randn_like(parameter)
        models[name] = model, export_model(model, folder / name / "1" / "model.onnx")
    return folder, models


def test_each_is_proven(exported: tuple[Path, Exported]) -> None:
    """The graph gives what eager PyTorch gives, within the tolerance that all rows are held to."""
    for name, (model, report) in exported[1].items():
        assert report.proof.difference <= TOLERANCE, name
        assert [state.name for state in report.signature.states] == [s.name for s in model.signature().states]


def test_each_runs_on_a_gpu_whole(exported: tuple[Path, Exported]) -> None:
    """No node of the serving graph is one that ONNX Runtime's CUDA provider would leave to the CPU."""
    for name in exported[1]:
        graph = build_serving_graph(
            read_model(exported[0] / name / "1" / "model.onnx"), num_rows=None, scatter=Scatter.ELEMENTS
        )
        away = [f"{node.op_type}: {node.reason}" for node in cuda_placement(graph.proto) if node.provider != CUDA]
        assert not away, name
        assert graph.can_batch, name


def test_a_row_that_stays_on_the_cpu_would_be_seen(exported: tuple[Path, Exported]) -> None:
    """The rule that the rows keep can be broken: a peephole LSTM as ONNX's own operator is not for CUDA."""
    node = onnx.helper.make_node("LSTM", ["x", "W", "R", "", "", "h", "c", "P"], ["y"], hidden_size=SIZE)
    graph = onnx.helper.make_graph([node], "g", [], [])

    assert [each.provider == CUDA for each in cuda_placement(onnx.helper.make_model(graph))] == [False]


async def test_each_is_served_with_its_states(exported: tuple[Path, Exported]) -> None:
    """Sessions of every row, in chunks that interleave and with fewer slots than sessions, answer as PyTorch alone."""
    folder, models = exported
    settings = Settings(models=folder, port=0, metrics_port=0, num_threads=1, num_slots=2, max_batch=2, provider="cpu")
    async with await start_server(settings) as server, connect(server.address) as client:
        for name, (model, _) in models.items():
            texts = np.random.default_rng(len(name)).integers(0, VOCABULARY, (len(CUTS), 14))
            answers = await asyncio.gather(*(_stepped(client, name, *each) for each in zip(texts, CUTS, strict=True)))
            for text, answer in zip(texts, answers, strict=True):
                np.testing.assert_allclose(answer, _alone(model, text), atol=TOLERANCE, err_msg=name)
        spilled = sum(metrics.num_spills for metrics in server.metrics.models.values())

    assert spilled > len(models)


async def _stepped(client: Client, name: str, text: np.ndarray, cuts: tuple[int, ...]) -> np.ndarray:
    async with client.open(name) as session:
        parts, start = [], 0
        for length in cuts:
            answer = await session.step(text[start : start + length].tolist(), outputs=["logits"])
            parts.append(np.array(answer["logits"].tolist()))
            start += length
        return np.concatenate(parts)


@torch.no_grad()
def _alone(model: LanguageModel, text: np.ndarray) -> np.ndarray:
    outputs, _ = model({"tokens": torch.from_numpy(text)[:, None]}, model.initial_states(1))
    return outputs["logits"][:, 0].numpy()

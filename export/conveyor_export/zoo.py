"""`make zoo`: every architecture with random weights, exported with proof and stepped through a running server."""

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from conveyor.cli.table import format_table
from conveyor.client import connect
from conveyor.graph.arena import Scatter
from conveyor.graph.model_file import read_model
from conveyor.graph.placement import CUDA, cuda_placement
from conveyor.graph.serving import build_serving_graph
from conveyor.server import start_server
from conveyor.settings import Settings
from conveyor_export.cases import ONE_PASS, STEP_BY_STEP
from conveyor_export.export import export_model
from conveyor_export.language_model import CELLS, LanguageModel, LanguageModelConfig
from conveyor_export.models import MODELS
from conveyor_export.proof import DEFAULT_TOLERANCE
from conveyor_export.report import ExportReport
from conveyor_export.served import served_difference

SIZES = LanguageModelConfig(vocabulary_size=32, embedding_size=32, hidden_size=32, num_layers=2)
NUM_SLOTS = 2  # fewer than there are sessions: states leave the arena and come back


@dataclass(frozen=True, slots=True)
class Line:
    """One architecture. Differences from PyTorch are the largest absolute ones."""

    name: str
    report: ExportReport
    num_nodes: int
    num_off_cuda: int
    served_difference: float

    @property
    def holds(self) -> bool:
        """True if neither graph nor server differs from PyTorch by more than is allowed."""
        return max(self.report.proof.difference, self.served_difference) <= DEFAULT_TOLERANCE

    def _difference(self, plan: str) -> str:
        by_plan = self.report.proof.by_plan
        return f"{by_plan[plan]:.1e}" if plan in by_plan else "-"  # a graph of one step has no pass of several

    def cells(self) -> tuple[str, ...]:
        """The line as text."""
        signature = self.report.signature
        return (
            self.name,
            f"{self.report.num_parameters:,}",
            " ".join(state.name for state in signature.states),
            f"{signature.state_bytes:,}",
            str(self.num_nodes),
            str(self.num_off_cuda),
            *(self._difference(plan) for plan in (ONE_PASS, STEP_BY_STEP)),
            f"{self.served_difference:.1e}",
        )


HEADINGS = ("MODEL", "PARAMETERS", "STATES", "BYTES", "NODES", "OFF CUDA", "ONE PASS", "STEPS", "SERVED")


async def measure(names: Sequence[str], folder: Path) -> list[Line]:
    """Exports the named architectures into a folder, serves it and steps sessions of each."""
    torch.manual_seed(0)
    models = {name: _make(name) for name in names}
    paths = {name: folder / name / "1" / "model.onnx" for name in names}
    bar = tqdm(names, disable=None, leave=False)
    reports = {name: export_model(models[name], paths[name]) for name in bar}
    settings = Settings(
        models=folder, port=0, metrics_port=0, store="none", num_threads=1, num_slots=NUM_SLOTS, max_batch=NUM_SLOTS
    )
    lines = []
    async with await start_server(settings) as server, connect(server.address) as client:
        for name in names:
            graph = build_serving_graph(read_model(paths[name]), num_rows=None, scatter=Scatter.ELEMENTS)
            parts = [part for part in (graph.proto, graph.initialiser) if part]
            placement = [node for part in parts for node in cuda_placement(part)]
            num_off = sum(node.provider != CUDA for node in placement)
            difference = await served_difference(client, name, models[name])
            lines.append(Line(name, reports[name], len(placement), num_off, difference))
    return lines


def _make(name: str) -> nn.Module:
    model = (MODELS[name]() if name in MODELS else _make_language_model(name)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # peepholes and biases that are zero would prove nothing
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def _make_language_model(cell: str) -> nn.Module:
    return LanguageModel(
        LanguageModelConfig(SIZES.vocabulary_size, SIZES.embedding_size, SIZES.hidden_size, SIZES.num_layers, cell=cell)
    )


def main() -> int:
    """Prints a line for each architecture; 1 if one of them differs from PyTorch by more than is allowed."""
    with tempfile.TemporaryDirectory() as folder:
        lines = asyncio.run(measure((*CELLS, *MODELS), Path(folder)))
    sys.stdout.write(format_table(HEADINGS, [line.cells() for line in lines]) + "\n")
    failed = [line.name for line in lines if not line.holds]
    verdict = f"beyond {DEFAULT_TOLERANCE:g}: {', '.join(failed)}" if failed else f"all within {DEFAULT_TOLERANCE:g}"
    sys.stdout.write(f"\n{verdict}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

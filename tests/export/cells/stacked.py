"""A module to export that is nothing but layers of a cell: features in, the top layer's output out."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from conveyor.graph.arena import Scatter
from conveyor.graph.model_file import read_model
from conveyor.graph.placement import CUDA, cuda_placement
from conveyor.graph.serving import build_serving_graph
from conveyor.signature import Axis, OutputSpec, Signature, TensorSpec
from conveyor_export import export_model
from conveyor_export.cells.cell import Cell, States
from conveyor_export.cells.layers import Stack, Steps

STEPS = Axis(batch=1, time=0)
SIZE, NUM_LAYERS = 8, 2
TOLERANCE = 1e-4


class Stacked(nn.Module):
    """Follows `conveyor_export.protocol`, one step a run."""

    def __init__(self, make: Callable[[int, int], Cell]) -> None:
        super().__init__()
        self.rnn = Steps(Stack(make, SIZE, SIZE, NUM_LAYERS))
        self.signature = Signature(
            inputs=(TensorSpec("x", "float32", (SIZE,), STEPS),),
            states=self.rnn.state_specs,
            outputs=(OutputSpec("y", "float32", (SIZE,), STEPS),),
            fixed_steps=1,
        )

    def forward(self, inputs: States, states: States) -> tuple[States, States]:
        y_TBH, states = self.rnn(inputs["x"], states)
        return {"y": y_TBH}, states


def check_export(make: Callable[[int, int], Cell], path: Path) -> None:
    """The graph is proven, with every weight random; sessions share its runs, and a GPU takes each of its nodes."""
    torch.manual_seed(0)
    module = Stacked(make).eval()
    for parameter in module.parameters():  # weights that start at zero would prove nothing
        parameter.data += 0.3 * torch.randn_like(parameter)

    report = export_model(module, path)

    assert report.proof.difference <= TOLERANCE
    graph = build_serving_graph(read_model(path), num_rows=None, scatter=Scatter.ELEMENTS)
    assert [f"{n.op_type}: {n.reason}" for n in cuda_placement(graph.proto) if n.provider != CUDA] == []
    assert graph.can_batch


def zeros(cell: Cell, batch_size: int) -> States:
    """What sessions open with."""
    kinds = {name: getattr(torch, state.dtype) for name, state in cell.states.items()}
    return {n: torch.zeros(batch_size, *state.shape, dtype=kinds[n]) for n, state in cell.states.items()}


def check_mixed_batch(cell: Cell, x: Tensor) -> None:
    """Rows of `x`, of which every other has been stepped before, get together what each gets alone."""
    torch.manual_seed(0)
    fresh, warm = zeros(cell, len(x)), zeros(cell, len(x))
    for before in torch.randn(3, *x.shape):
        _, warm = cell(before, warm)
    states = {name: _alternate(fresh[name], warm[name]) for name in fresh}

    together = _flat(*cell(x, states))
    alone = [
        _flat(*cell(x[row : row + 1], {name: state[row : row + 1] for name, state in states.items()}))
        for row in range(len(x))
    ]

    assert all(tensor.isfinite().all() for tensor in together)
    for index, tensor in enumerate(together):
        torch.testing.assert_close(tensor, torch.cat([row[index] for row in alone]), atol=1e-6, rtol=1e-6)


def _alternate(even: Tensor, odd: Tensor) -> Tensor:
    result = even.clone()
    result[1::2] = odd[1::2]
    return result


def _flat(y: Tensor, states: States) -> list[Tensor]:
    return [y, *states.values()]


def finite_gradients(cell: Cell, x: Tensor) -> bool:
    """True if a step of fresh sessions and the step after it leave no parameter with a gradient that is no number."""
    _, states = cell(x, zeros(cell, len(x)))
    y, _ = cell(x, states)
    y.sum().backward()
    return all(p.grad is not None and bool(p.grad.isfinite().all()) for p in cell.parameters())

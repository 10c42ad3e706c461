"""Which cells are exported as one ONNX operator, which takes any number of steps in one run, and with what weights.

Those that ONNX Runtime runs on a CPU and a GPU alike, and on a CPU about as fast as the cell's plain operators where it
takes a step of many sessions: `bench/FORMS.md`. Its plain RNN is slower there, and an LSTM that couples its gates would
compute one that is not needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from conveyor_export.cells.cell import Cell, Gate
from conveyor_export.cells.gru import GRUCell
from conveyor_export.cells.layers import Stack
from conveyor_export.cells.lstm import LSTMCell


@dataclass(frozen=True, slots=True)
class NativeLayer:
    """One ONNX recurrent operator: `W` `[1, G*H, I]`, `R` `[1, G*H, H]`, `B` `[1, 2*G*H]` for G gates.

    `states` are the cell's, in the operator's order.
    """

    operator: str
    W: Tensor
    R: Tensor
    B: Tensor
    states: tuple[str, ...]
    attributes: dict[str, Any]


def native_layers(cell: Cell) -> list[NativeLayer]:
    """The operators of a stack of layers, lowest first; empty if they are none."""
    layers = [native_layer(layer) for layer in cell.layers] if type(cell) is Stack else []
    return [layer for layer in layers if layer is not None]


def native_layer(cell: nn.Module) -> NativeLayer | None:
    """The operator of one layer; None if it is none."""
    if type(cell) is GRUCell and cell.reset_after:
        # ONNX's update gate says how much of the old state stays; the essay's, how much of the candidate is written.
        rows = [_negative(_rows(cell.z)), _rows(cell.r), (*_rows(cell.h)[:3], cell.recurrent_bias)]
        return _join("GRU", rows, ("h",), {"linear_before_reset": 1})
    if type(cell) is LSTMCell and cell.is_plain:
        return _join("LSTM", [_rows(cell.gates[gate]) for gate in "iofc"], ("h", "c"), {})
    return None


# What one gate has: `[H, I]`, `[H, H]`, and the biases of both, `[H]`.
_Rows = tuple[Tensor, Tensor, Tensor, Tensor]


def _rows(gate: nn.Module) -> _Rows:
    assert isinstance(gate, Gate)  # noqa: S101  # a dict of modules does not tell
    return gate.W, gate.R, gate.b, torch.zeros_like(gate.b)


def _negative(rows: _Rows) -> _Rows:
    W, R, b, recurrent_b = rows
    return -W, -R, -b, -recurrent_b


def _join(operator: str, rows: Sequence[_Rows], states: tuple[str, ...], attributes: dict[str, Any]) -> NativeLayer:
    W, R, b, recurrent_b = (torch.cat(parts).detach() for parts in zip(*rows, strict=True))
    return NativeLayer(operator, W[None], R[None], torch.cat((b, recurrent_b))[None], states, attributes)

"""A language model that also gives what the gates of its LSTM layers do, as outputs on request."""

from dataclasses import replace

import torch
from torch import nn

from conveyor.signature import Axis, OutputSpec, Signature
from conveyor_export.cells.cell import Cell, States
from conveyor_export.cells.layers import Stack, Steps
from conveyor_export.cells.lstm import LSTMCell
from conveyor_export.errors import UnsupportedOption
from conveyor_export.language_model import LanguageModel
from conveyor_export.protocol import Tensors


class GatedLanguageModel(nn.Module):
    """What a language model computes, one step a run, and optional outputs for each of its LSTM layers.

    They are `forget0`, `input0`, `output0`, `candidate0` and `cell0` of the first layer, `[1, B, H]` each; a gate that
    a variant has not is left out. Inputs, states and logits are the model's own; PyTorch's layers become cells of the
    same weights.

    Raises:
        UnsupportedOption: it is no language model of LSTM layers.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not isinstance(model, LanguageModel):
            kind = type(model).__name__
            raise UnsupportedOption(f"gates: only a model of conveyor-train can be made to give them, not {kind}")
        self.cell = _cell_of(model)
        self.embedding, self.projection = model.embedding, model.projection
        self.signature = self._signature(model)
        # PyTorch's own states hold all layers, `[layers, B, H]`.
        self.is_joined = isinstance(model.rnn, nn.LSTM)

    def _signature(self, model: LanguageModel) -> Signature:
        signature, steps = model.signature(), Axis(batch=1, time=0)
        shape = (model.config.hidden_size,)
        gates = tuple(OutputSpec(name, "float32", shape, steps, is_optional=True) for name in self.cell.shown)
        return replace(signature, outputs=(*signature.outputs, *gates), fixed_steps=1)

    def forward(self, inputs: Tensors, states: States) -> tuple[Tensors, States]:
        """Consumes one step of `tokens` `[1, B]`."""
        x_BI = self.embedding(inputs["tokens"])[0]
        y_BH, new, shown = self.cell.step(x_BI, _apart(states) if self.is_joined else states)
        outputs = {"logits": self.projection(y_BH)} | shown
        timed = {name: tensor[None] for name, tensor in outputs.items()}
        return timed, _joined(new, list(states)) if self.is_joined else new


def _cell_of(model: LanguageModel) -> Cell:
    if isinstance(model.rnn, nn.LSTM):
        return cells_of(model.rnn)
    if isinstance(model.rnn, Steps) and model.rnn.cell.shown:
        return model.rnn.cell
    raise UnsupportedOption(f"gates: layers of cell {model.config.cell!r} have none to give; those of LSTMs have")


def cells_of(lstm: nn.LSTM) -> Stack:
    """The essay's cells with the weights of PyTorch's layers; the two biases become one."""
    stack = Stack(LSTMCell, lstm.input_size, lstm.hidden_size, lstm.num_layers)
    for number, cell in enumerate(stack.layers):
        assert isinstance(cell, LSTMCell)  # noqa: S101  # a ModuleList forgets what is in it
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        parts = (getattr(lstm, f"{kind}_l{number}").detach().chunk(4) for kind in kinds)
        for name, W, R, b_x, b_h in zip("ifco", *parts, strict=True):
            gate = cell.gates[name]
            gate.W.data, gate.R.data, gate.b.data = W, R, b_x + b_h
    return stack


def _apart(states: States) -> States:
    return {f"{name}{number}": layer for name, state in states.items() for number, layer in enumerate(state)}


def _joined(states: States, names: list[str]) -> States:
    num_layers = len(states) // len(names)
    return {name: torch.stack([states[f"{name}{number}"] for number in range(num_layers)]) for name in names}

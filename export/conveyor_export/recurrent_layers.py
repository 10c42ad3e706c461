"""Stands in for recurrent layers while a module is traced: one ONNX operator a layer, constant weights.

Left to itself, PyTorch's exporter unrolls `nn.RNN` over a fixed T, writes a wrong node for `proj_size`, fixes T in a
Reshape, and leaves weights as chains of Slice and Concat that neither pre-packing nor quantisation sees through.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.onnx import ops

from conveyor_export.cells.layers import Steps
from conveyor_export.cells.native import NativeLayer, native_layers
from conveyor_export.errors import UnsupportedLayer

# Where PyTorch keeps the gate that ONNX wants next: LSTM i, f, g, o -> i, o, f, c; GRU r, z, n -> z, r, h.
GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN_TANH": (0,), "RNN_RELU": (0,)}
# PyTorch's GRU applies the reset gate after the recurrent product, as cuDNN does; ONNX's default is the other order.
_ATTRIBUTES: dict[str, dict[str, Any]] = {"GRU": {"linear_before_reset": 1}, "RNN_RELU": {"activations": ["Relu"]}}
_FORWARDS = (nn.LSTM.forward, nn.GRU.forward, nn.RNN.forward)

States = Tensor | tuple[Tensor, ...]


class RecurrentLayers(nn.Module):
    """A stack of ONNX LSTM, GRU or RNN operators with the weights, and the call, of a PyTorch one."""

    def __init__(self, rnn: nn.RNNBase, opset: int) -> None:
        super().__init__()
        self.mode, self.opset = rnn.mode, opset
        self.num_layers, self.hidden_size, self.batch_first = rnn.num_layers, rnn.hidden_size, rnn.batch_first
        for layer in range(rnn.num_layers):
            for name, weight in _layer_weights(rnn, layer).items():
                self.register_buffer(f"{name}{layer}", weight)

    def forward(self, x_TBF: Tensor, states: States | None = None) -> tuple[Tensor, States]:
        """Takes and returns what the PyTorch module does; called while tracing only, eagerly it computes nothing."""
        if not isinstance(x_TBF, Tensor) or x_TBF.dim() != 3:
            raise UnsupportedLayer(f"{self.mode}: its input must be one tensor of three axes, not packed or unbatched")
        if self.batch_first:
            x_TBF = x_TBF.transpose(0, 1)
        old_states = self._as_tuple(x_TBF, states)
        new_states: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            x_TBF, *new = self._step_layer(layer, x_TBF, tuple(state[layer : layer + 1] for state in old_states))
            new_states.append(tuple(new))
        joined = tuple(torch.cat(parts) for parts in zip(*new_states, strict=True))
        return x_TBF.transpose(0, 1) if self.batch_first else x_TBF, joined if self.mode == "LSTM" else joined[0]

    def _as_tuple(self, x_TBF: Tensor, states: States | None) -> tuple[Tensor, ...]:
        if states is None:
            zeros = x_TBF.new_zeros(self.num_layers, x_TBF.shape[1], self.hidden_size)
            return (zeros, zeros) if self.mode == "LSTM" else (zeros,)
        return (states,) if isinstance(states, Tensor) else tuple(states)

    def _step_layer(self, layer: int, x_TBF: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        weights = [getattr(self, f"{name}{layer}") for name in ("W", "R", "B")]
        operator, attributes = self.mode.split("_")[0], _ATTRIBUTES.get(self.mode, {})
        return _operator(operator, x_TBF, weights, states, attributes, self.opset)


class NativeSteps(nn.Module):
    """The same for a stack of cells that are one operator each, with the call of `Steps`."""

    def __init__(self, layers: list[NativeLayer], opset: int) -> None:
        super().__init__()
        self.layers, self.opset = layers, opset
        for number, layer in enumerate(layers):
            for name in ("W", "R", "B"):
                self.register_buffer(f"{name}{number}", getattr(layer, name))

    def forward(self, x_TBI: Tensor, states: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Takes and returns what `Steps` does."""
        new_states: dict[str, Tensor] = {}
        for number, layer in enumerate(self.layers):
            names = [f"{name}{number}" for name in layer.states]
            weights = [getattr(self, f"{name}{number}") for name in ("W", "R", "B")]
            olds = tuple(states[name].unsqueeze(0) for name in names)
            x_TBI, *news = _operator(layer.operator, x_TBI, weights, olds, layer.attributes, self.opset)
            new_states |= {name: new.squeeze(0) for name, new in zip(names, news, strict=True)}
        return x_TBI, new_states


def _operator(
    operator: str,
    x_TBI: Tensor,
    weights: list[Tensor],
    states: tuple[Tensor, ...],
    attributes: dict[str, Any],
    opset: int,
) -> tuple[Tensor, ...]:
    """The outputs `[T, B, H]` and the new states, `[1, B, H]` as the old ones; computes nothing eagerly."""
    num_steps, num_sessions = x_TBI.shape[:2]
    hidden_size = weights[1].shape[-1]
    state_shape = (1, num_sessions, hidden_size)
    y_TDBH, *new_states = ops.symbolic_multi_out(
        operator,
        (x_TBI, *weights, None, *states),
        {"hidden_size": hidden_size, **attributes},
        dtypes=[x_TBI.dtype] * (1 + len(states)),
        shapes=[(num_steps, *state_shape), *[state_shape] * len(states)],
        version=opset,
    )
    return (y_TDBH.squeeze(1), *new_states)


def replace_layers(module: nn.Module, opset: int) -> nn.Module:
    """Puts ONNX operators in the place of each recurrent layer that is one, in place; returns the module.

    Raises:
        UnsupportedLayer: a layer projects its state or reads the sequence backwards.
    """
    made: dict[nn.Module, nn.Module] = {}
    # With duplicates: a layer may have several names, and is replaced under each of them by the same one.
    for name, layer in list(module.named_modules(remove_duplicate=False)):
        if layer not in made and (stand_in := _stand_in(name, layer, opset)):
            made[layer] = stand_in
        if layer in made:
            if layer is module:
                return made[layer]
            module.set_submodule(name, made[layer])
    return module


def _stand_in(name: str, layer: nn.Module, opset: int) -> nn.Module | None:
    # A subclass with a forward of its own computes something else, and is traced as it is.
    if isinstance(layer, nn.RNNBase) and type(layer).forward in _FORWARDS:
        _check(name, layer)
        return RecurrentLayers(layer, opset)
    if type(layer) is Steps and (layers := native_layers(layer.cell)):
        return NativeSteps(layers, opset)
    return None


def _check(name: str, layer: nn.RNNBase) -> None:
    if layer.proj_size:
        raise UnsupportedLayer(f"{name}: proj_size={layer.proj_size}: ONNX has no LSTM that projects its hidden state")
    if layer.bidirectional:
        raise UnsupportedLayer(f"{name}: bidirectional: a stream cannot be read from its end")


def _layer_weights(rnn: nn.RNNBase, layer: int) -> dict[str, Tensor]:
    """ONNX's `W` `[1, G*H, I]`, `R` `[1, G*H, H]` and `B` `[1, 2*G*H]` of one layer with G gates."""

    def reorder(weight: Tensor) -> Tensor:
        gates = weight.detach().chunk(len(GATES[rnn.mode]))
        return torch.cat([gates[gate] for gate in GATES[rnn.mode]])

    w, r = reorder(getattr(rnn, f"weight_ih_l{layer}")), reorder(getattr(rnn, f"weight_hh_l{layer}"))
    biases = [w.new_zeros(2 * len(w))]
    if rnn.bias:
        biases = [reorder(getattr(rnn, f"bias_{part}_l{layer}")) for part in ("ih", "hh")]
    return {"W": w[None], "R": r[None], "B": torch.cat(biases)[None]}

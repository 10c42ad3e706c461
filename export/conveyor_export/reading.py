"""Reads a language model back from the ONNX file that it was exported to, and proves that it is the same."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, NodeProto, numpy_helper
from torch import Tensor

from conveyor.graph import ModelError, read_model
from conveyor.graph.model_file import ModelFile
from conveyor_export.errors import ProofError, SourceError
from conveyor_export.language_model import LanguageModel, LanguageModelConfig
from conveyor_export.proof import DEFAULT_TOLERANCE, prove_graph
from conveyor_export.recurrent_layers import GATES

_CELLS = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn_tanh"}


def read_language_model(path: Path) -> tuple[LanguageModel, list[str], dict[str, Any]]:
    """The model, its vocabulary and its provenance; weights that were stored as float16 are as exact as those.

    Raises:
        SourceError: it is no file of `conveyor-export` that holds a language model of PyTorch's layers in float32 or
            half; or it is another function than what was read from it.
    """
    try:
        model = read_model(path)
    except ModelError as error:
        raise SourceError(str(error)) from error
    try:
        module = _read(model).eval()
        prove_graph(model.proto, module, model.signature, DEFAULT_TOLERANCE)
    except (IndexError, KeyError, RuntimeError, StopIteration, ValueError, ProofError) as error:
        kinds = "float32 or half, layers of lstm, gru or rnn_tanh"
        raise SourceError(f"{path}: not a language model that can be read back: expected {kinds}") from error
    return module, list(model.vocabulary.symbols) if model.vocabulary else [], model.provenance


def _read(model: ModelFile) -> LanguageModel:
    weights = _Weights(model.proto)
    layers = [node for node in model.proto.graph.node if node.op_type in _CELLS]
    embedding = weights.of(next(node for node in model.proto.graph.node if node.op_type == "Gather").input[0])
    *_, product = (node for node in model.proto.graph.node if node.op_type == "MatMul")
    hidden_size = weights.of(layers[0].input[2]).shape[-1]
    cell = _CELLS[layers[0].op_type]
    vocabulary_size, embedding_size = embedding.shape
    config = LanguageModelConfig(vocabulary_size, embedding_size, hidden_size, len(layers), cell)
    module = LanguageModel(config)
    state = {"embedding.weight": embedding, "projection.weight": weights.of(product.input[1]).T}
    state["projection.bias"] = weights.of("module.projection.bias")
    for number, node in enumerate(layers):
        state |= {f"rnn.{name}_l{number}": tensor for name, tensor in _layer(node, weights)}
    module.load_state_dict(state)
    return module


def _layer(node: NodeProto, weights: "_Weights") -> Iterator[tuple[str, Tensor]]:
    """PyTorch's weights of one operator, whose gates are in another order."""
    order = GATES["RNN_TANH" if node.op_type == "RNN" else node.op_type]
    W, R, B = (weights.of(name)[0] for name in node.input[1:4])
    parts = {"weight_ih": W, "weight_hh": R, "bias_ih": B[: len(W)], "bias_hh": B[len(W) :]}
    for name, tensor in parts.items():
        gates = tensor.chunk(len(order))
        yield name, torch.cat([gates[order.index(place)] for place in range(len(order))])


class _Weights:
    """A graph's constants by name, those too that it stores as float16 and casts."""

    def __init__(self, proto: ModelProto) -> None:
        self._constants = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._casts = {node.output[0]: node.input[0] for node in proto.graph.node if node.op_type == "Cast"}

    def of(self, name: str) -> Tensor:
        """In float32."""
        array = numpy_helper.to_array(self._constants[self._casts.get(name, name)])
        return torch.from_numpy(array.astype(np.float32))

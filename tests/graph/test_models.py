"""The references and the graphs of `tests/models.py` are the same models."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from tests import models

CELLS = ["lstm", "gru", "rnn_tanh", "rnn_relu"]


def run_both(proto: onnx.ModelProto, reference: models.Reference, stream: torch.Tensor, batch: int) -> None:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    stream_name = session.get_inputs()[0].name
    states = reference.initial_states(batch)
    expected = states
    for _ in range(3):
        output, expected = reference(stream, expected)
        feeds = {stream_name: stream.numpy()} | {name: state.numpy() for name, state in states.items()}
        got = session.run(None, feeds)
        np.testing.assert_allclose(got[0], output.numpy(), atol=1e-5)
        states = {name: torch.from_numpy(state) for name, state in zip(states, got[1:], strict=True)}
        for name, state in expected.items():
            np.testing.assert_allclose(states[name].numpy(), state.numpy(), atol=1e-5)


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_language_models(cell: str, num_layers: int) -> None:
    """Language models of every cell, one layer or three, answer as PyTorch does."""
    proto, reference = models.make_model(cell, num_layers)
    run_both(proto, reference, torch.randint(20, (4, 3)), 3)


def test_other_models() -> None:
    """Feature, frame, step and lone models answer as PyTorch does."""
    run_both(*models.make_feature_model(), torch.randn(4, 3, 3), 3)
    run_both(*models.make_frame_model(), torch.randn(2, 3), 2)
    run_both(*models.make_step_model(), torch.randint(20, (1, 5)), 5)
    run_both(*models.make_lone_model(), torch.randn(4, 1, 3), 1)

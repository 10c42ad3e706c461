"""DeltaNet's recurrences and Gated DeltaNet: an oracle's values, batches of fresh and warm sessions, the export."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize, softplus

from conveyor_export.cells.delta_net import GatedDeltaNetCell, of_length_one, step_delta
from tests.export.cells.stacked import check_export, check_mixed_batch, finite_gradients
from tests.export.cells.test_golden import H, I, fill


@pytest.mark.parametrize(
    ("gated", "expected"),
    [
        (False, [0.346061, 0.543179, 0.387996, 0.094064]),
        (True, [-0.019073, 0.006328, -0.059455, -0.151626]),
    ],
)
def test_five_steps(gated: bool, expected: list[float]) -> None:
    """Given inputs, two heads give the oracle's output after five steps, with a decay and without."""
    q, k, v = (fill((5, 2, 2, 2), place, 1) for place in (1, 2, 3))
    q, k, beta = normalize(q, dim=-1), normalize(k, dim=-1), torch.sigmoid(fill((5, 2, 2), 4, 1))
    log_decay = -softplus(fill((5, 2, 2), 5, 1) + 2)
    S = torch.zeros(2, 2, 2, 2, dtype=torch.float64)
    for step in range(5):
        o, S = step_delta(q[step], k[step], v[step], beta[step], S, log_decay[step] if gated else None)

    assert o[0].flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_a_value_replaces_another_under_the_same_key() -> None:
    """Written whole, the new value is what the key finds, and what lay under a key at a right angle stays."""
    keys = torch.eye(2)[:, None, None]  # two keys of one session, one head
    old, new, other = torch.randn(3, 1, 1, 5)
    S, whole = torch.zeros(1, 1, 2, 5), torch.ones(1, 1)
    for key, value in ((keys[0], old), (keys[1], other), (keys[0], new)):
        _, S = step_delta(key, key, value, whole, S)

    torch.testing.assert_close(S[0, 0], torch.cat([new, other])[:, 0])


def test_vectors_are_of_length_one() -> None:
    """Unless they are zero."""
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])

    torch.testing.assert_close(of_length_one(x), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


@pytest.mark.parametrize(("hidden_size", "num_heads"), [(8, 4), (6, 2), (5, 1)])
def test_states(hidden_size: int, num_heads: int) -> None:
    """A layer carries the tail of queries, keys and values, and a matrix for each of four, two or one heads."""
    size = hidden_size // num_heads
    shapes = {name: state.shape for name, state in GatedDeltaNetCell(I, hidden_size).states.items()}

    assert shapes == {"conv": (3 * hidden_size, 3), "S": (num_heads, size, size)}


def test_fresh_and_warm_sessions_share_a_batch() -> None:
    """Each row gets what it gets alone."""
    torch.manual_seed(0)
    check_mixed_batch(GatedDeltaNetCell(I, H), torch.randn(5, I))


def test_training() -> None:
    """All gradients are numbers, also of an input of zeros."""
    torch.manual_seed(0)
    assert finite_gradients(GatedDeltaNetCell(I, H), torch.eye(I + 1, I))


def test_export(tmp_path: Path) -> None:
    """Two layers are exported with proof, as a graph that a GPU takes whole."""
    check_export(GatedDeltaNetCell, tmp_path / "model.onnx")

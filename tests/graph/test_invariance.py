"""On the CPU provider a session's answers are the same, to the bit, whatever else runs and however it is cut."""

import platform

import numpy as np
import onnxruntime as ort
import pytest

from conveyor.graph import LENGTHS, READ_SLOTS, WRITE_SLOTS, Scatter, build_serving_graph
from conveyor.graph.model_file import model_from_proto
from tests.models import make_model

NUM_ROWS, NUM_STEPS = 64, 5


class Sessions:
    """Sessions of one model; `run` leaves the arena as it was and returns logits and the new arena."""

    def __init__(self, cell: str, hidden_size: int) -> None:
        proto, _ = make_model(cell, 2, hidden_size, 32, 100)
        serving = build_serving_graph(model_from_proto(proto), num_rows=None, scatter=Scatter.ND)
        self.session = ort.InferenceSession(serving.proto.SerializeToString(), providers=["CPUExecutionProvider"])
        rng = np.random.default_rng(0)
        self.arena = (rng.normal(size=(NUM_ROWS, serving.arenas[0].width)) * 0.3).astype(np.float32)
        self.tokens = rng.integers(0, 100, (NUM_STEPS, NUM_ROWS))
        self.lengths = rng.integers(1, NUM_STEPS + 1, NUM_ROWS)

    def run(self, tokens: np.ndarray, slots: np.ndarray, lengths: np.ndarray, arena: np.ndarray) -> list[np.ndarray]:
        feeds = {"tokens": tokens, READ_SLOTS: slots, WRITE_SLOTS: slots[:, None], LENGTHS: lengths.astype(np.int32)}
        return self.session.run(None, feeds | {"conveyor.arena.float32": arena})

    def run_whole(self, slots: np.ndarray) -> list[np.ndarray]:
        """Each of the slots' chunks in one run: logits and new rows of each."""
        logits, arena = self.run(self.tokens[:, slots], slots, self.lengths[slots], self.arena)
        cut = [logits[: self.lengths[slot], place] for place, slot in enumerate(slots)]
        return [*cut, *arena[slots]]

    def run_steps(self, slot: int) -> list[np.ndarray]:
        """One slot's chunk, a step a run."""
        slots, arena, steps = np.array([slot]), self.arena, []
        for step in range(self.lengths[slot]):
            logits, arena = self.run(self.tokens[[step]][:, slots], slots, np.ones(1), arena)
            steps.append(logits[0, 0])
        return [np.stack(steps), arena[slot]]


@pytest.mark.parametrize("hidden_size", [16, 64, 256])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_alone_or_together(cell: str, hidden_size: int) -> None:
    """Alone, with others, ragged or step by step: the same bits.

    Not so for RNN: onnxruntime multiplies a single row by another routine, so alone and together differ by rounding.
    """
    sessions = Sessions(cell, hidden_size)
    is_exact = cell != "rnn_tanh" and platform.machine() == "x86_64"
    compare = np.testing.assert_array_equal if is_exact else assert_close
    together = sessions.run_whole(np.arange(NUM_ROWS))
    for size in (1, 2, 7, 33):
        slots = np.random.default_rng(size).permutation(NUM_ROWS)[:size]
        expected = [together[slot] for slot in slots] + [together[NUM_ROWS + slot] for slot in slots]
        for got, wanted in zip(sessions.run_whole(slots), expected, strict=True):
            compare(got, wanted)
    for slot in range(4):
        for got, wanted in zip(sessions.run_steps(slot), (together[slot], together[NUM_ROWS + slot]), strict=True):
            compare(got, wanted)


def assert_close(got: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(got, wanted, atol=2e-6)

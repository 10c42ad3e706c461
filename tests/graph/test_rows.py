"""Rows go into an arena and come out of it by graphs alone."""

import numpy as np
import onnxruntime as ort
import pytest

from conveyor.graph.arena import Scatter, pack_states
from conveyor.graph.rows import read_rows_model, write_rows_model
from conveyor.signature import Axis, Signature, StateSpec, TensorSpec


def session(proto: object) -> ort.InferenceSession:
    return ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int64", "int32", "bool"])
@pytest.mark.parametrize("scatter", Scatter)
def test_write_and_read(scatter: Scatter, dtype: str) -> None:
    """Written rows are read back, in place and for every dtype; the other rows stay."""
    state = StateSpec("s", dtype, (5,), Axis(batch=0), "s_out")
    (arena,) = pack_states(Signature((TensorSpec("x", "float32"),), (state,), ()))
    rng = np.random.default_rng(0)
    memory = rng.integers(0, 2, (8, 5)).astype(dtype)
    before, rows, slots = memory.copy(), 1 - rng.integers(0, 2, (3, 5)).astype(dtype), np.array([6, 0, 3])
    rows = rows.astype(dtype)
    value = ort.OrtValue.ortvalue_from_numpy(memory)
    writer = session(write_rows_model(arena, scatter))
    binding = writer.io_binding()
    binding.bind_ortvalue_input("arena", value)
    binding.bind_ortvalue_input("slots", ort.OrtValue.ortvalue_from_numpy(slots))
    binding.bind_ortvalue_input("rows", ort.OrtValue.ortvalue_from_numpy(rows))
    binding.bind_ortvalue_output("arena.out", value)
    writer.run_with_iobinding(binding)
    np.testing.assert_array_equal(memory[slots], rows)
    others = [slot for slot in range(8) if slot not in slots]
    np.testing.assert_array_equal(memory[others], before[others])
    (read,) = session(read_rows_model(arena)).run(None, {"arena": memory, "slots": slots})
    np.testing.assert_array_equal(read, rows)

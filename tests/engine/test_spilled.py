"""States outside the arena, in host memory."""

import numpy as np

from conveyor.engine.spilled import SpilledStates


def rows(value: float) -> dict[str, np.ndarray]:
    return {"float32": np.full(4, value, np.float32), "int64": np.array([3])}


def test_a_state_is_kept_until_it_is_dropped() -> None:
    """A state is found by its session, an unknown one is not, and dropping forgets it."""
    store = SpilledStates()
    store.put("a", rows(1))
    store.put("b", rows(2))

    state = store.get("a")
    assert state is not None
    np.testing.assert_array_equal(state["float32"], rows(1)["float32"])
    assert len(store) == 2
    store.drop("a")
    store.drop("a")
    assert store.get("a") is None
    assert store.get("b") is not None


def test_bytes_are_counted() -> None:
    """The store knows the bytes of what it holds, also when a state takes the place of an older one."""
    store = SpilledStates()
    store.put("a", rows(1))
    store.put("a", rows(2))

    assert store.num_bytes == 24
    store.put("b", {"float32": np.zeros(1, np.float32)})
    assert store.num_bytes == 28
    store.drop("a")
    store.drop("b")
    assert store.num_bytes == 0

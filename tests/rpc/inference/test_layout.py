"""Where the axes of a model's tensors are in messages."""

import numpy as np
import pytest

from conveyor.errors import InvalidArgument
from conveyor.inference.infer_pb2 import ModelInferRequest
from conveyor.rpc.inference.layout import Layout
from conveyor.signature import Axis, OutputSpec, Signature, StateSpec, TensorSpec

STATE = StateSpec("h", "float32", (2,), Axis(batch=0), output="hn")


def layout_of(x: Axis, y: Axis, states: tuple[StateSpec, ...] = (STATE,), fixed_steps: int | None = None) -> Layout:
    """The layout of a model of one input `x` `[3]` and one output `y` `[4, 5]` a step."""
    inputs, outputs = (TensorSpec("x", "float32", (3,), x),), (OutputSpec("y", "float32", (4, 5), y),)
    return Layout(Signature(inputs=inputs, states=states, outputs=outputs, fixed_steps=fixed_steps))


@pytest.mark.parametrize(
    ("layout", "x", "y"),
    [
        (layout_of(Axis(batch=1, time=0), Axis(batch=1, time=0)), [-1, -1, 3], [-1, -1, 4, 5]),
        (layout_of(Axis(batch=0, time=2), Axis(batch=3, time=0)), [-1, -1, 3], [-1, -1, 4, 5]),
        (layout_of(Axis(batch=1), Axis(batch=2)), [-1, 3], [-1, 4, 5]),
        (layout_of(Axis(batch=1, time=0), Axis(batch=0), fixed_steps=1), [-1, -1, 3], [-1, -1, 4, 5]),
        (layout_of(Axis(time=1), Axis(time=2)), [3, -1], [4, 5, -1]),
        (layout_of(Axis(time=0), Axis(), fixed_steps=1), [-1, 3], [-1, 4, 5]),
        (layout_of(Axis(), Axis(batch=1)), [3], [4, 1, 5]),
    ],
)
def test_shapes(layout: Layout, x: list[int], y: list[int]) -> None:
    """Batch first and time second; the graph's own axes where it has no batch axis."""
    assert layout.shape(layout.inputs["x"]) == x
    assert layout.shape(layout.outputs["y"]) == y


@pytest.mark.parametrize("shape", [(2, 4, 3), (1, 4, 2), (1, 0, 3), (4, 3), (1, 4, 3, 1), (1, -1, 3), ()])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    """A sequence takes a batch of one, of at least one step."""
    layout = layout_of(Axis(batch=1, time=0), Axis(batch=1, time=0))
    layout.check(layout.inputs["x"], (1, 4, 3))

    with pytest.raises(InvalidArgument, match=r"inputs\[x\].shape: expected \[1, -1, 3\], got"):
        layout.check(layout.inputs["x"], shape)


def test_the_size_of_an_answer_before_its_request_is_read() -> None:
    """That of all rows and steps which a known tensor claims, of one where it claims what cannot be."""
    layout = layout_of(Axis(batch=1, time=0), Axis(batch=1, time=0), states=())

    def num_steps(*shape: int, name: str = "x") -> float:
        request = ModelInferRequest(inputs=[{"name": "none", "shape": [9, 9, 9]}, {"name": name, "shape": shape}])
        return layout.answer_bytes(request) / (4 * 5 * 4)

    assert [num_steps(2, 7, 3), num_steps(1, 2**40, 3)] == [14, 2**40]
    assert [num_steps(-2, 7, 3), num_steps(0, 7, 3), num_steps(7, 3), num_steps(2, 7, 3, name="y")] == [1] * 4


def test_an_answer_has_the_outputs_that_are_asked_for() -> None:
    """Unknown ones have no size."""
    layout = layout_of(Axis(batch=0), Axis(batch=0))
    requests = [ModelInferRequest(outputs=[{"name": name} for name in names]) for names in (["y"], ["y", "z"], ["z"])]

    assert [layout.answer_bytes(request) for request in requests] == [80, 80, 0]


def test_rows_and_back() -> None:
    """What is split by the batch axis is joined by it; a row is `[steps, ...]`."""
    layout = layout_of(Axis(batch=1, time=0), Axis(batch=1, time=0), states=())
    y = np.arange(2 * 7 * 20.0).reshape(2, 7, 4, 5)

    rows = layout.rows({"x": np.arange(2 * 7 * 3.0).reshape(2, 7, 3)})

    assert [row["x"].tolist() for row in rows] == np.arange(2 * 7 * 3.0).reshape(2, 7, 3).tolist()
    np.testing.assert_array_equal(layout.joined("y", [y[0], y[1]]), y)


def test_inputs_have_the_same_batch() -> None:
    """Two inputs of different batches are refused."""
    rows = Axis(batch=0)
    inputs = (TensorSpec("x", "float32", (), rows), TensorSpec("z", "float32", (), rows))
    layout = Layout(Signature(inputs=inputs, states=(), outputs=(OutputSpec("y", "float32", (), rows),)))

    with pytest.raises(InvalidArgument, match=r"inputs\[z\].shape: a batch of 3, others of 2"):
        layout.rows({"x": np.zeros(2), "z": np.zeros(3)})

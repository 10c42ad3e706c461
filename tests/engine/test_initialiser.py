"""What a session's contexts make of it, and which are refused."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch

from conveyor.engine.initialiser import Initialiser
from conveyor.errors import InvalidArgument
from conveyor.graph import build_serving_graph, model_from_proto
from conveyor.graph.arena import Scatter
from conveyor.graph.errors import ModelError
from tests.models import make_context_model, make_model

PICTURE = np.array([0.5, -1, 2], np.float32)


def initialiser_of(proto: Any) -> Initialiser:
    return Initialiser(build_serving_graph(model_from_proto(proto), num_rows=None, scatter=Scatter.ND))


def test_states_and_contexts_are_those_of_pytorch() -> None:
    """The first state and the computed context follow from the given one; what has none is zero."""
    proto, reference = make_context_model()
    start = initialiser_of(proto).start({"picture": PICTURE})
    with torch.no_grad():
        h, leaning = reference.first(torch.from_numpy(PICTURE)), reference.lean(torch.from_numpy(PICTURE))

    assert start.initial is not None
    assert start.contexts is not None
    np.testing.assert_allclose(start.initial["conveyor.arena.float32"], [*h, *np.zeros(16)], atol=1e-6)
    # The picture itself is looked at once, so the step keeps only what was made of it.
    np.testing.assert_allclose(start.contexts["conveyor.context.float32"], leaning, atol=1e-6)


def test_a_model_without_contexts_starts_all_sessions_alike() -> None:
    """Nothing of a session's own has to be kept."""
    start = initialiser_of(make_model()[0]).start({})

    assert start.contexts is None
    assert start.initial is None


@pytest.mark.parametrize(
    ("contexts", "field", "problem"),
    [
        ({}, "contexts[picture]", "missing"),
        ({"picture": PICTURE, "frame": PICTURE}, "contexts[frame]", "the model takes picture"),
        ({"picture": PICTURE, "leaning": np.zeros(20, np.float32)}, "contexts[leaning]", "the model takes picture"),
        ({"picture": PICTURE.astype(np.float64)}, "contexts[picture]", "expected float32 [3], got float64 [3]"),
        ({"picture": PICTURE[:2]}, "contexts[picture]", "expected float32 [3], got float32 [2]"),
        ({"picture": PICTURE[None]}, "contexts[picture]", "expected float32 [3], got float32 [1, 3]"),
        ({"picture": PICTURE * np.nan}, "contexts[picture]", "has a NaN or an infinity"),
    ],
)
def test_contexts_that_do_not_fit_are_refused(contexts: dict[str, np.ndarray], field: str, problem: str) -> None:
    """The error names the context; one that the model computes is not the client's to give."""
    with pytest.raises(InvalidArgument) as caught:
        initialiser_of(make_context_model()[0]).check(contexts)

    assert caught.value.field == field
    assert problem in str(caught.value)


def test_a_first_state_of_another_shape_is_found_at_load() -> None:
    """A graph that leaves a length open and gives one number for a whole state is refused before it serves."""
    proto, _ = make_context_model()
    nodes = proto.graph.node
    place, first = next((i, node) for i, node in enumerate(nodes) if "first" in node.output)
    first.output[0] = "all"
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "width_axis"))
    nodes.insert(place + 1, onnx.helper.make_node("ReduceMean", ["all", "width_axis"], ["first"]))
    declared = next(value for value in proto.graph.output if value.name == "h_first")
    declared.type.tensor_type.shape.dim[2].dim_param = "H"

    with pytest.raises(ModelError, match=r"the model cannot start a session: .* size 1 into shape \(16,\)"):
        initialiser_of(proto).warm_up()

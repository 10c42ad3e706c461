"""What is the same at every step: clients may send it with each, or leave it out."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from conveyor.graph.proposal import propose
from conveyor.inference import inference_service_pb2_grpc
from conveyor.signature import Signature
from tests.foreign import make_rated, save_foreign
from tests.models import save_model
from tests.rpc.conftest import StartServer
from tests.rpc.inference.models import make_scaled_model
from tests.rpc.inference.requests import infer, outputs_of
from tests.rpc.requests import failure_of

X = np.arange(3, dtype=np.float32)[np.newaxis]


@pytest.fixture
async def foreign(start: StartServer, tmp_path: Path) -> AsyncIterator[Any]:
    """A server of `rated`, which adds up `x`, twice at its usual rate of 2, and of `scaled`, `x` times 2."""
    rated = make_rated()
    save_foreign(tmp_path / "rated" / "1", rated, Signature.from_json(propose(rated).json))
    save_model(tmp_path / "scaled" / "1", make_scaled_model())
    server = await start(models=tmp_path)
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield inference_service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.mark.parametrize(("given", "factor"), [({}, 2), ({"rate": np.array([2])}, 2), ({"rate": np.array([1])}, 1)])
async def test_a_sequence_has_the_constant_of_its_beginning(foreign: Any, given: Any, factor: int) -> None:
    """The model's own where it was given none; what later requests say of it is let pass."""
    steps = [
        await foreign.ModelInfer(infer("rated", 1, sequence_start=step == 0, outputs=["y"], x=X, more=0 * X, **given))
        for step in range(3)
    ]

    assert [outputs_of(step)["y"].tolist() for step in steps] == [(n * factor * X).tolist() for n in (1, 2, 3)]


async def test_a_stateless_request_has_its_own(foreign: Any) -> None:
    """One with a constant is not mistaken for one without."""
    for by in (2, 5, 2):
        given = {} if by == 2 else {"by": np.array(by, np.float32)}
        response = await foreign.ModelInfer(infer("scaled", x=X, **given))
        assert outputs_of(response)["y"].tolist() == (by * X).tolist()


async def test_a_constant_in_a_shape_that_no_array_has(foreign: Any) -> None:
    """Its lengths are those of an array, though their product is one element."""
    request = infer("scaled", x=X)
    request.raw_input_contents.pop()
    request.inputs[0].contents.fp32_contents.extend(X[0])
    request.inputs.add(name="by", datatype="FP32", shape=[-1, -1], contents={"fp32_contents": [2.0]})
    failure = await failure_of(foreign.ModelInfer(request))

    assert (failure.code, failure.field) == (grpc.StatusCode.INVALID_ARGUMENT, "inputs[by].shape")


async def test_a_constant_has_its_size(foreign: Any) -> None:
    """One element, however it is shaped."""
    failure = await failure_of(foreign.ModelInfer(infer("scaled", x=X, by=np.ones(2, np.float32))))

    assert failure.field == "inputs[by].shape"

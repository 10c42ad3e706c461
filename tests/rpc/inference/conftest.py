"""The stock client against a real server, and our own stubs against another."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from conveyor.inference import inference_service_pb2_grpc
from tests.client.serving import ServerProcess, serving
from tests.models import (
    make_context_model,
    make_feature_model,
    make_frame_model,
    make_lone_model,
    make_model,
    make_step_model,
    make_walk_model,
    save_model,
)
from tests.rpc.inference.models import make_control_model, make_scaled_model, make_stateless_model
from tests.rpc.inference.triton import PYTHON, Triton, triton_client


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of each layout: with and without a time axis, a batch axis, contexts, inputs and state."""
    folder = tmp_path_factory.mktemp("models")
    makers = {
        "tiny": make_model,
        "frames": make_feature_model,
        "single": make_frame_model,
        "lone": make_lone_model,
        "counting": make_step_model,
        "stateless": make_stateless_model,
        "control": make_control_model,
        "pictures": make_context_model,
        "walk": make_walk_model,
    }
    for name, make in makers.items():
        save_model(folder / name / "1", make()[0])
    save_model(folder / "scaled" / "1", make_scaled_model())
    return folder


@pytest.fixture
def oip(channel: grpc.aio.Channel) -> Any:
    """The calls of the protocol, by our own stubs, to a server in this process."""
    return inference_service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture(scope="session")
def process(models: Path) -> Iterator[ServerProcess]:
    """A server as a process of its own."""
    with serving(models, "--max-batch", "8", "--store", "none") as server:
        yield server


@pytest.fixture
async def shared(process: ServerProcess) -> AsyncIterator[Any]:
    """The calls of the protocol to the server that all tests share: it is started once."""
    async with grpc.aio.insecure_channel(process.address) as channel:
        yield inference_service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture(scope="session")
def triton(process: ServerProcess) -> Iterator[Triton]:
    """The stock client of that server."""
    if not PYTHON.exists():
        pytest.skip("tritonclient is not installed: `make install-dev` makes .venv-triton")
    with triton_client(process.address) as client:
        yield client

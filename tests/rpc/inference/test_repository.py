"""The repository's calls of the Open Inference Protocol, and sequences while versions come and go."""

import random
from pathlib import Path
from shutil import rmtree
from typing import Any

import grpc
import numpy as np
import pytest

from conveyor.inference import infer_pb2, inference_service_pb2_grpc, repository_pb2, statistics_pb2
from tests.models import make_model, save_model
from tests.rpc.conftest import StartServer
from tests.rpc.inference.requests import torn
from tests.rpc.requests import failure_of

START = "must specify the START flag on the first request of the sequence"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A repository with version 1 of `lm`, of 20 tokens."""
    save_model(tmp_path / "lm" / "1", make_model(vocabulary_size=20, seed=1)[0])
    return tmp_path


async def index(oip: Any, *, ready: bool = False) -> list[tuple[str, str, str]]:
    """Name, version and state of all."""
    response = await oip.RepositoryIndex(repository_pb2.RepositoryIndexRequest(ready=ready))
    return [(model.name, model.version, model.state) for model in response.models]


def step_of(sequence: int, *tokens: int, version: str = "", **fields: Any) -> infer_pb2.ModelInferRequest:
    """A request for a step of a sequence, or for some."""
    raw = np.array(tokens, np.int64).tobytes()
    request = infer_pb2.ModelInferRequest(model_name="lm", model_version=version, raw_input_contents=[raw])
    request.inputs.add(name="tokens", datatype="INT64", shape=[1, len(tokens)])
    request.parameters["sequence_id"].int64_param = sequence
    for name, value in fields.items():
        request.parameters[name].bool_param = value
    return request


async def infer(oip: Any, *args: Any, **fields: Any) -> infer_pb2.ModelInferResponse:
    """A step of a sequence."""
    response: infer_pb2.ModelInferResponse = await oip.ModelInfer(step_of(*args, **fields))
    return response


async def load(oip: Any) -> None:
    """Has the server load `lm`."""
    await oip.RepositoryModelLoad(repository_pb2.RepositoryModelLoadRequest(model_name="lm"))


async def test_sequences_stay_on_their_version(models: Path, oip: Any) -> None:
    """A sequence goes on on the version that it began on, with its tensors, and a new one begins on the new version."""
    first = await infer(oip, 1, 19, sequence_start=True)
    save_model(models / "lm" / "2", make_model(vocabulary_size=10, seed=2)[0])
    await load(oip)

    assert await index(oip) == [("lm", "1", "UNLOADING"), ("lm", "2", "READY")]
    assert await index(oip, ready=True) == [("lm", "2", "READY")]
    again = await infer(oip, 1, 19)
    new = await infer(oip, 2, 9, sequence_start=True)
    assert [(each.model_version, list(each.outputs[0].shape)) for each in (first, again, new)] == [
        ("1", [1, 1, 20]),
        ("1", [1, 1, 20]),
        ("2", [1, 1, 10]),
    ]
    assert (await failure_of(infer(oip, 2, 19))).code is grpc.StatusCode.INVALID_ARGUMENT
    restarted = await infer(oip, 1, 9, sequence_start=True)
    assert restarted.model_version == "2"


async def test_a_stored_sequence_goes_on_on_its_version(models: Path, start: StartServer, tmp_path: Path) -> None:
    """With its tensors, though the server that takes it up began on a newer one."""
    fields = {"store": "sqlite", "state_dir": tmp_path / ".state"}
    server = await start(**fields)
    async with grpc.aio.insecure_channel(server.address) as channel:
        await infer(inference_service_pb2_grpc.GRPCInferenceServiceStub(channel), 1, 19, sequence_start=True)
        await server.drain()
    save_model(models / "lm" / "2", make_model(vocabulary_size=10, seed=2)[0])
    server = await start(**fields)
    async with grpc.aio.insecure_channel(server.address) as channel:
        oip: Any = inference_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        again = await infer(oip, 1, 19)

    assert (again.model_version, list(again.outputs[0].shape)) == ("1", [1, 1, 20])


async def test_requests_that_do_not_wait_find_their_sequence(models: Path, start: StartServer, tmp_path: Path) -> None:
    """Sent behind the one that begins a sequence on the stable version, while a newer one has other tensors."""
    (models / "lm" / "conveyor.toml").write_text("[aliases]\nstable = 1\n")
    save_model(models / "lm" / "2", make_model(vocabulary_size=10, seed=2)[0])
    server = await start(store="sqlite", state_dir=tmp_path / ".state")
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = inference_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer()
        await call.write(step_of(1, 19, sequence_start=True))
        await call.write(step_of(1, 19))
        responses = [await call.read(), await call.read()]

    assert [response.error_message for response in responses] == ["", ""]
    assert [response.infer_response.model_version for response in responses] == ["1", "1"]


async def test_a_version_that_is_named_is_the_one_that_runs(models: Path, oip: Any) -> None:
    """A sequence of another version is not open under it."""
    await infer(oip, 1, 3, sequence_start=True)
    save_model(models / "lm" / "2", make_model(vocabulary_size=20, seed=2)[0])
    await load(oip)
    failure = await failure_of(infer(oip, 1, 3, version="2"))
    again = await infer(oip, 1, 3, version="1")

    assert START in failure.message
    assert again.model_version == "1"


async def test_a_start_that_is_refused_leaves_nothing_open(oip: Any) -> None:
    """What follows it must not go on with the sequence that was open under the id."""
    await infer(oip, 1, 3, sequence_start=True)
    await oip.RepositoryModelUnload(repository_pb2.RepositoryModelUnloadRequest(model_name="lm"))
    refused = await failure_of(infer(oip, 1, 3, sequence_start=True))
    await load(oip)

    assert refused.code is grpc.StatusCode.NOT_FOUND
    assert START in (await failure_of(infer(oip, 1, 4))).message


async def test_statistics_of_all_versions(models: Path, oip: Any) -> None:
    """Those of a model, or of one version that is named."""
    save_model(models / "lm" / "2", make_model(vocabulary_size=20, seed=2)[0])
    await infer(oip, 1, 3, sequence_start=True)
    await load(oip)
    requests = [statistics_pb2.ModelStatisticsRequest(name="lm", version=version) for version in ("", "1", "2")]
    told = [(await oip.ModelStatistics(request)).model_stats for request in requests]

    assert [[(each.version, each.inference_count) for each in stats] for stats in told] == [
        [("1", 1), ("2", 0)],
        [("1", 1)],
        [("2", 0)],
    ]


async def test_a_model_is_unloaded_and_loaded(oip: Any) -> None:
    """Sequences that are under way go on; new ones cannot begin until it is loaded again."""
    await infer(oip, 1, 3, sequence_start=True)
    await oip.RepositoryModelUnload(repository_pb2.RepositoryModelUnloadRequest(model_name="lm"))

    assert await index(oip) == [("lm", "1", "UNLOADING")]
    assert await index(oip, ready=True) == []
    await infer(oip, 1, 4)
    assert (await failure_of(infer(oip, 2, 3, sequence_start=True))).code is grpc.StatusCode.NOT_FOUND
    await load(oip)
    await infer(oip, 1, 4)
    await infer(oip, 2, 3, sequence_start=True)


async def test_what_cannot_be_served_has_its_reason(models: Path, oip: Any) -> None:
    """In the index, and from the call that was to load it."""
    bad = models / "lm" / "2" / "model.onnx"
    bad.parent.mkdir()
    bad.write_bytes(b"no model")
    refused = await failure_of(load(oip))
    response = await oip.RepositoryIndex(repository_pb2.RepositoryIndexRequest())

    assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
    assert [(model.version, model.state) for model in response.models] == [("1", "READY"), ("2", "UNAVAILABLE")]
    assert response.models[1].reason == refused.message


async def test_torn_files_hurt_nobody(models: Path, start: StartServer) -> None:
    """Each is served or refused with a reason, and a sequence that goes on meanwhile is what it is without them."""
    sound, chance = (models / "lm" / "1" / "model.onnx").read_bytes(), random.Random(5)
    server = await start(trial_seconds=60)
    async with grpc.aio.insecure_channel(server.address) as channel:
        oip: Any = inference_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        whole = await oip.ModelInfer(step_of(1, *range(8), sequence_start=True))
        steps, refusals = [], []
        for number in range(8):
            steps.append((await infer(oip, 2, number, sequence_start=number == 0)).raw_output_contents[0])
            path = models / "lm" / str(number + 2) / "model.onnx"
            path.parent.mkdir()
            path.write_bytes(torn(sound, chance))
            try:
                await load(oip)
            except grpc.aio.AioRpcError as error:
                refusals.append((error.code(), f"{path}: " in str(error.details())))
            rmtree(path.parent)

    assert refusals == [(grpc.StatusCode.FAILED_PRECONDITION, True)] * len(refusals)
    assert refusals
    got, expected = (np.frombuffer(raw, np.float32) for raw in (b"".join(steps), whole.raw_output_contents[0]))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)

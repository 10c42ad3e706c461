"""Models and sessions over a real connection."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from conveyor.v1 import model_pb2, sequence_service_pb2_grpc, session_pb2, tensor_pb2
from tests.rpc.conftest import StartServer
from tests.rpc.requests import failure_of, open_session, step


async def test_models_are_listed_and_got(stub: Any) -> None:
    """A listing leaves vocabularies out; one model comes with its signature."""
    models = (await stub.ListModels(model_pb2.ListModelsRequest())).models
    model = (await stub.GetModel(model_pb2.GetModelRequest(name="tiny"))).model

    assert [(model.name, model.version) for model in models] == [("frames", 3), ("tiny", 1)]
    assert [spec.name for spec in model.signature.inputs] == ["tokens"]
    assert model.signature.states[0].data_type == tensor_pb2.DATA_TYPE_FLOAT32
    assert list(model.signature.states[0].shape) == [1, 16]
    assert model.signature.logits == "logits"
    assert model.state_bytes == 2 * 16 * 4
    assert len(model.fingerprint) == 64


@pytest.mark.parametrize(
    ("name", "version", "problem"), [("none", 0, "'none'"), ("tiny", 2, "no version 2"), ("", 0, "2 models")]
)
async def test_unknown_models_are_not_found(stub: Any, name: str, version: int, problem: str) -> None:
    """An unknown name or version, or no name where there is a choice, is NOT_FOUND."""
    failure = await failure_of(stub.GetModel(model_pb2.GetModelRequest(name=name, version=version)))

    assert failure.code is grpc.StatusCode.NOT_FOUND
    assert problem in failure.message


async def test_the_only_model_needs_no_name(start: StartServer, models: Any) -> None:
    """With one model loaded, from a file or a folder, its name may be left out."""
    server = await start(models=models / "tiny" / "1" / "model.onnx")

    assert server.engines.of_model("").name == "model"


async def test_a_session_lives(stub: Any) -> None:
    """Opened, got, listed, closed; then unknown."""
    opened = (
        await stub.OpenSession(
            session_pb2.OpenSessionRequest(
                model_name="tiny", session_id="mine", seed=7, idle_timeout=Duration(seconds=30)
            )
        )
    ).session
    await step(stub, "mine", [1, 2, 3])
    got = (await stub.GetSession(session_pb2.GetSessionRequest(session_id="mine"))).session
    closed = await stub.CloseSession(session_pb2.CloseSessionRequest(session_id="mine"))
    failure = await failure_of(stub.GetSession(session_pb2.GetSessionRequest(session_id="mine")))

    assert (opened.session_id, opened.seed, opened.position, opened.model_name) == ("mine", 7, 0, "tiny")
    assert (opened.expire_time.ToDatetime() - opened.create_time.ToDatetime()).total_seconds() == pytest.approx(30)
    assert got.position == closed.position == 3
    assert got.residence == session_pb2.RESIDENCE_RESIDENT
    assert failure.code is grpc.StatusCode.NOT_FOUND


async def test_ids_are_minted(stub: Any) -> None:
    """Without an id of the client's, the server makes one of 32 hexadecimal digits."""
    first, second = await open_session(stub), await open_session(stub)

    assert first != second
    assert len(bytes.fromhex(first)) == 16


async def test_an_id_is_open_once(stub: Any) -> None:
    """Even on another model, an open id is ALREADY_EXISTS."""
    await open_session(stub, "mine")

    for model in ("tiny", "frames"):
        failure = await failure_of(open_session(stub, "mine", model))
        assert failure.code is grpc.StatusCode.ALREADY_EXISTS


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"session_id": "with space"}, "session_id"),
        ({"session_id": "x" * 129}, "session_id"),
        ({"session_id": "señor"}, "session_id"),
        ({"idle_timeout": Duration(seconds=-1)}, "idle_timeout"),
        ({"max_lifetime": Duration()}, "max_lifetime"),
        ({"contexts": {"image": tensor_pb2.Tensor(data_type=77)}}, "contexts[image].data_type"),
        (
            {"contexts": {"image": tensor_pb2.Tensor(data_type=tensor_pb2.DATA_TYPE_INT64, data=bytes(8))}},
            "contexts[image]",
        ),
    ],
)
async def test_malformed_openings_are_refused(stub: Any, fields: dict[str, Any], field: str) -> None:
    """INVALID_ARGUMENT names the field."""
    failure = await failure_of(stub.OpenSession(session_pb2.OpenSessionRequest(model_name="tiny", **fields)))

    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.field == field


async def test_too_many_sessions_are_refused(start: StartServer) -> None:
    """RESOURCE_EXHAUSTED says when to come again, in the rich status and in plain metadata."""
    server = await start(max_sessions=1)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = sequence_service_pb2_grpc.SequenceServiceStub(channel)
        await open_session(stub)
        failure = await failure_of(open_session(stub))

    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failure.pushback_ms == "1000"
    assert failure.retry_seconds == 1


async def test_sessions_are_listed_in_pages(stub: Any) -> None:
    """Pages follow the opening order over all models, whatever is closed between them."""
    ids = [await open_session(stub, f"s{i}", "tiny" if i % 2 else "frames") for i in range(7)]
    first = await stub.ListSessions(session_pb2.ListSessionsRequest(page_size=3))
    await stub.CloseSession(session_pb2.CloseSessionRequest(session_id="s2"))
    second = await stub.ListSessions(session_pb2.ListSessionsRequest(page_size=3, page_token=first.next_page_token))
    third = await stub.ListSessions(session_pb2.ListSessionsRequest(page_size=3, page_token=second.next_page_token))

    pages = [[session.session_id for session in page.sessions] for page in (first, second, third)]
    assert pages == [ids[:3], ids[3:6], ids[6:]]
    assert (first.total_size, second.total_size) == (7, 6)
    assert third.next_page_token == ""


async def test_sessions_of_one_model_are_listed(stub: Any) -> None:
    """`model_name` leaves the others out; an unknown one is NOT_FOUND."""
    await asyncio.gather(open_session(stub, "a", "tiny"), open_session(stub, "b", "frames"))
    listing = await stub.ListSessions(session_pb2.ListSessionsRequest(model_name="frames"))
    failure = await failure_of(stub.ListSessions(session_pb2.ListSessionsRequest(model_name="none")))

    assert [session.session_id for session in listing.sessions] == ["b"]
    assert failure.code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"page_size": -1}, "page_size"), ({"page_token": "x"}, "page_token"), ({"page_token": "nan x"}, "page_token")],
)
async def test_malformed_pages_are_refused(stub: Any, fields: dict[str, Any], field: str) -> None:
    """INVALID_ARGUMENT names the field."""
    failure = await failure_of(stub.ListSessions(session_pb2.ListSessionsRequest(**fields)))

    assert (failure.code, failure.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)

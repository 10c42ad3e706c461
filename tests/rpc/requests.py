"""Short forms of requests, and what the tests look at in failures."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status

from conveyor.v1 import session_pb2, step_pb2, tensor_pb2


async def open_session(stub: Any, session_id: str = "", model: str = "tiny", **fields: Any) -> str:
    """Opens a session and returns its id."""
    request = session_pb2.OpenSessionRequest(model_name=model, session_id=session_id, **fields)
    response = await stub.OpenSession(request)
    return response.session.session_id


async def step(stub: Any, session_id: str, tokens: list[int], **fields: Any) -> step_pb2.StepResult:
    """Steps a session with tokens."""
    chunk = step_pb2.Chunk(session_id=session_id, tokens=tokens, **fields)
    return (await stub.Step(step_pb2.StepRequest(chunk=chunk))).result


async def position_of(stub: Any, session_id: str) -> int:
    """Where the session is."""
    return (await stub.GetSession(session_pb2.GetSessionRequest(session_id=session_id))).session.position


async def get(stub: Any, session_id: str) -> session_pb2.Session:
    """The session as it is told."""
    return (await stub.GetSession(session_pb2.GetSessionRequest(session_id=session_id))).session


async def resume(stub: Any, session_id: str, **fields: Any) -> session_pb2.Session:
    """Takes a session up."""
    return (await stub.ResumeSession(session_pb2.ResumeSessionRequest(session_id=session_id, **fields))).session


async def stored_at(stub: Any, session_id: str, position: int) -> None:
    """Waits until the session is in the store at this position."""
    while (await get(stub, session_id)).durable_position != position:
        await asyncio.sleep(0.005)


async def until(holds: Callable[[], bool]) -> None:
    """Waits until something is so; the test's own timeout ends it otherwise."""
    while not holds():
        await asyncio.sleep(0.005)


async def read_all(call: Any, responses: list[Any]) -> None:
    """Reads messages into the list until the call ends; raises if it fails."""
    while (response := await call.read()) is not grpc.aio.EOF:
        responses.append(response)


def logits(*names: str, last_only: bool = False) -> step_pb2.Outputs:
    """Asks for whole outputs."""
    return step_pb2.Outputs(names=names or ["logits"], last_only=last_only)


def to_array(tensor: tensor_pb2.Tensor) -> np.ndarray:
    """A float32 tensor as an array."""
    assert tensor.data_type == tensor_pb2.DATA_TYPE_FLOAT32
    return np.frombuffer(tensor.data, np.float32).reshape(tuple(tensor.shape))


def to_tensor(array: np.ndarray) -> tensor_pb2.Tensor:
    """An array as a tensor of its type."""
    data_type = tensor_pb2.DataType.Value(f"DATA_TYPE_{array.dtype.name.upper()}")
    return tensor_pb2.Tensor(data_type=data_type, shape=array.shape, data=array.tobytes())


@dataclass
class Failure:
    """What a failed call tells."""

    code: grpc.StatusCode
    message: str
    field: str | None
    position: str | None
    epoch: str | None
    pushback_ms: str | None
    retry_seconds: float | None


async def failure_of(call: Any) -> Failure:
    """Awaits a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return read_failure(raised.value)


def read_failure(error: grpc.aio.AioRpcError) -> Failure:
    """What the error tells, the rich status included."""
    trailers = {key: value for key, value in error.trailing_metadata() or () if isinstance(value, str)}
    delay = None
    status = rpc_status.from_call(error)  # raises if it disagrees with the call's own status
    for detail in status.details if status else ():
        info = RetryInfo()
        if detail.Unpack(info):
            delay = info.retry_delay.ToTimedelta().total_seconds()
    return Failure(
        error.code(),
        error.details() or "",
        trailers.get("conveyor-field"),
        trailers.get("conveyor-position"),
        trailers.get("conveyor-epoch"),
        trailers.get("grpc-retry-pushback-ms"),
        delay,
    )

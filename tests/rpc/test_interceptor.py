"""What surrounds a call: its metrics and its status."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from conveyor.rpc.interceptor import CallInterceptor
from conveyor.rpc.server import DESCRIPTOR, INFERENCE
from conveyor.server import Server
from conveyor.telemetry.metrics import Metrics
from conveyor.v1 import model_pb2
from tests.rpc.requests import failure_of, until


async def broken(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    """A call with a defect."""
    raise RuntimeError("the secret")


@asynccontextmanager
async def serving(metrics: Metrics, **handlers: grpc.RpcMethodHandler) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server of nothing but these methods of `test.Service`, each behind the interceptor."""
    server = grpc.aio.server(interceptors=[CallInterceptor(metrics, "test.Service")])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Service", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


async def test_the_unforeseen_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    """INTERNAL with an id; the log has the traceback under it."""
    metrics = Metrics()
    async with serving(metrics, Break=grpc.unary_unary_rpc_method_handler(broken, bytes, bytes)) as channel:
        failure = await failure_of(channel.unary_unary("/test.Service/Break")(b"x"))

    assert failure.code is grpc.StatusCode.INTERNAL
    assert "secret" not in failure.message
    assert caplog.records[-1].error_id in failure.message
    assert "the secret" in caplog.text
    assert metrics.requests == {("Break", "INTERNAL"): 1}


async def test_calls_are_counted(server: Server, stub: Any) -> None:
    """By method and code, with the time of the unary ones; none is left in progress."""
    await stub.ListModels(model_pb2.ListModelsRequest())
    await failure_of(stub.GetModel(model_pb2.GetModelRequest(name="none")))
    stream = stub.Stream()
    await stream.done_writing()
    await stream.read()
    metrics = server.metrics

    assert +metrics.requests == {("ListModels", "OK"): 1, ("GetModel", "NOT_FOUND"): 1, ("Stream", "OK"): 1}
    assert metrics.request_seconds["GetModel"].buckets()[-1] == ("+Inf", 1)
    assert "Stream" not in metrics.request_seconds
    assert not any(metrics.calls.values())


async def leaving(request: bytes, context: grpc.aio.ServicerContext) -> None:
    """A call whose client is gone when it writes."""
    raise grpc.aio.InternalError


async def test_a_client_that_is_gone_is_no_defect(caplog: pytest.LogCaptureFixture) -> None:
    """What gRPC raises from a write to nobody counts as a cancelled call, and is not logged."""
    metrics = Metrics()
    async with serving(metrics, Leave=grpc.unary_stream_rpc_method_handler(leaving, bytes, bytes)) as channel:
        call = channel.unary_stream("/test.Service/Leave")(b"x")
        await until(lambda: bool(metrics.requests))
        call.cancel()

    assert metrics.requests == {("Leave", "CANCELLED"): 1}
    assert not caplog.records


async def test_defects_are_counted_from_zero(server: Server) -> None:
    """Every call shows its INTERNAL answers before there is one: an increase from nothing would go unseen."""
    none_yet = {method for (method, code), count in server.metrics.requests.items() if code == "INTERNAL" and not count}

    assert none_yet == {method.name for method in (*DESCRIPTOR.methods, *INFERENCE.methods)}


async def test_unknown_methods_are_unimplemented(channel: grpc.aio.Channel) -> None:
    """A method that is not in the protos is gRPC's own matter."""
    failure = await failure_of(channel.unary_unary("/conveyor.v1.SequenceService/None")(b""))

    assert failure.code is grpc.StatusCode.UNIMPLEMENTED

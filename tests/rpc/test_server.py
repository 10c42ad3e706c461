"""What listens beside our own service, and where."""

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from conveyor.rpc.server import RpcServer
from conveyor.telemetry.metrics import Metrics


async def test_services_are_reflected(channel: grpc.aio.Channel) -> None:
    """Tools list the services and get their files without having the protos."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="conveyor.v1.SequenceService"),
    ]
    listing, file = [response async for response in stub.ServerReflectionInfo(iter(requests))]

    names = {service.name for service in listing.list_services_response.service}
    assert {"conveyor.v1.SequenceService", "inference.GRPCInferenceService", "grpc.health.v1.Health"} <= names
    assert b"conveyor/v1/sequence_service.proto" in file.file_descriptor_response.file_descriptor_proto[0]


async def test_a_port_belongs_to_one_server() -> None:
    """A second server on the same port is refused instead of taking half of the first one's calls."""
    first = RpcServer("127.0.0.1", 0, Metrics(), 10_000)
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{first.port}"):
        RpcServer("127.0.0.1", first.port, Metrics(), 10_000)
    await first.close()

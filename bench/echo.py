"""A bare `grpc.aio` service that returns each message as it came: what Python's gRPC itself can do."""

from typing import Any

import grpc

from bench.measurement import Measurement
from conveyor.v1 import step_pb2

METHOD = "/bench.EchoService/Stream"


async def _echo(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    while (message := await context.read()) is not grpc.aio.EOF:
        await context.write(message)


class EchoServer:
    """The service, with the request type of Conveyor's own stream."""

    async def start(self) -> str:
        """Starts it and returns its address."""
        handler = grpc.stream_stream_rpc_method_handler(
            _echo, step_pb2.StreamRequest.FromString, step_pb2.StreamRequest.SerializeToString
        )
        service, method = METHOD.strip("/").split("/")
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return f"127.0.0.1:{port}"

    async def stop(self) -> None:
        """Ends it."""
        await self._server.stop(None)

    async def measure(self, count: int, seconds: float) -> Measurement:
        """Its clients are what is measured."""
        raise NotImplementedError

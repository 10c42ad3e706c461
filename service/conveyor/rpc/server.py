"""The gRPC server: our services, health and reflection on one port."""

import asyncio
import socket
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from conveyor.engine.engines import Engines
from conveyor.inference import inference_service_pb2, inference_service_pb2_grpc
from conveyor.repository import Repository
from conveyor.rpc.health import Health
from conveyor.rpc.inference.service import InferenceServicer
from conveyor.rpc.interceptor import CallInterceptor
from conveyor.rpc.service import SequenceServicer
from conveyor.telemetry.metrics import Metrics
from conveyor.v1 import sequence_service_pb2, sequence_service_pb2_grpc

DESCRIPTOR = sequence_service_pb2.DESCRIPTOR.services_by_name["SequenceService"]
SERVICE = DESCRIPTOR.full_name
INFERENCE = inference_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class RpcServer:
    """Listens from `__init__` on, so that a port in use is known before models are loaded; answers from `start` on.

    Raises:
        OSError: the port cannot be listened on.
    """

    def __init__(self, host: str, port: int, metrics: Metrics, max_message_bytes: int) -> None:
        self._metrics = metrics
        for method in (*DESCRIPTOR.methods, *INFERENCE.methods):
            metrics.requests[method.name, "INTERNAL"] = 0  # or an alert would see no increase in a first one
        self._server = grpc.aio.server(
            interceptors=[CallInterceptor(metrics, SERVICE, INFERENCE.full_name)], options=_options(max_message_bytes)
        )
        address = join_address(host, port)
        try:
            _try_port(host, port)
            self.port: int = self._server.add_insecure_port(address)
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OSError(f"cannot listen on {address}: {reason}") from error

    async def start(self, engines: Engines, repository: Repository, max_stream_steps: int) -> None:
        """Answers calls; what is loaded is warm."""
        self._servicer = SequenceServicer(engines, repository, self._metrics, max_stream_steps)
        self._health = Health()
        self._inference = InferenceServicer(engines, repository, self._metrics, lambda: self._health.is_serving)
        await self._health.begin([SERVICE, INFERENCE.full_name])

        async def show_models() -> None:
            await self._health.show_models(repository.names, engines.open_names)

        repository.changed = show_models
        await show_models()
        add_servicer: Any = sequence_service_pb2_grpc.add_SequenceServiceServicer_to_server  # generated without types
        add_servicer(self._servicer, self._server)
        add_servicer = inference_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server
        add_servicer(self._inference, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE, INFERENCE.full_name, HEALTH, reflection.SERVICE_NAME), self._server
        )
        await self._server.start()
        await self._health.serve()
        self._following = asyncio.create_task(self._health.follow_store(lambda: engines.is_store_up))

    async def drain(self) -> None:
        """Tells probes that new work is to go elsewhere."""
        await self._health.drain()

    async def stop(self, grace: float) -> None:
        """Ends the open streams, gives calls `grace` seconds to send what they have, and closes the port."""
        self._servicer.end_streams()
        self._inference.end_streams()
        await self._server.stop(grace)
        self._following.cancel()

    async def close(self) -> None:
        """Gives up the port of a server that was never started."""
        await self._server.stop(None)


def join_address(host: str, port: int) -> str:
    """`host:port`, with brackets for IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _try_port(host: str, port: int) -> None:
    # gRPC would not say why it cannot listen, and its C core would write a line of its own to stderr.
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", -1),  # how long an answer is, the request has settled
        ("grpc.so_reuseport", 0),  # or a second server would share the port and take half of the calls
        # Clients ping to keep idle streams through proxies: allow that as often as they may want it.
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        # And notice clients that are gone without a word, whose streams would hold their chunks.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]

"""Around every call of our own services: its metrics, and a status for whatever it raises."""

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from conveyor.errors import InvalidArgument
from conveyor.rpc.status import Context, code_of, end_call
from conveyor.telemetry.metrics import Metrics

Behaviour = Callable[[Any, Context], Awaitable[Any]]


if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]  # generic in its stubs alone


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps each method of the `services` once. Health and reflection pass as they are."""

    def __init__(self, metrics: Metrics, *services: str) -> None:
        self._metrics = metrics
        self._services = services
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]",
        details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """The wrapped handler of the method."""
        path = details.method
        if (wrapped := self._wrapped.get(path)) is not None:
            return wrapped
        handler = await continuation(details)
        service, _, method = path.removeprefix("/").rpartition("/")
        if handler is None or service not in self._services:
            return handler
        self._wrapped[path] = self._wrap(handler, method)
        return self._wrapped[path]

    def _wrap(self, handler: Any, method: str) -> "Handler":
        if handler.request_streaming:
            # The stream reads, and so parses, its requests itself.
            behaviour = self._observed(handler.stream_stream, method, is_timed=False)
            return grpc.stream_stream_rpc_method_handler(
                behaviour, handler.request_deserializer, handler.response_serializer
            )
        # A request that does not parse would never reach our code, and gRPC's own answer tells the exception.
        inner, make = handler.unary_unary, grpc.unary_unary_rpc_method_handler
        if handler.response_streaming:
            inner, make = handler.unary_stream, grpc.unary_stream_rpc_method_handler
        behaviour = _parsing(inner, handler.request_deserializer)
        behaviour = self._observed(behaviour, method, is_timed=not handler.response_streaming)
        return make(behaviour, None, handler.response_serializer)

    def _observed(self, inner: Behaviour, method: str, *, is_timed: bool) -> Behaviour:
        metrics = self._metrics
        seconds = metrics.request_seconds[method] if is_timed else None

        async def observed(request: Any, context: Context) -> Any:
            begun = time.perf_counter()
            code = None
            metrics.calls[method] += 1
            try:
                response = await inner(request, context)
                code = grpc.StatusCode.OK
            except grpc.aio.InternalError:
                return None  # a write to a client that is gone
            except Exception as error:
                code = code_of(error)
                end_call(context, error)
                return None
            else:
                return response
            finally:
                metrics.calls[method] -= 1
                metrics.requests[method, (code or _cancelled(context)).name] += 1
                if seconds is not None:
                    seconds.observe(time.perf_counter() - begun)

        return observed


def _cancelled(context: Context) -> grpc.StatusCode:
    """What a client saw of a call that did not end by itself."""
    remaining = context.time_remaining()
    is_late = remaining is not None and remaining <= 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if is_late else grpc.StatusCode.CANCELLED


def _parsing(inner: Behaviour, parse: Callable[[bytes], Any]) -> Behaviour:
    async def parsing(raw: bytes, context: Context) -> Any:
        try:
            request = parse(raw)
        except DecodeError:
            raise InvalidArgument("request", "the message cannot be parsed") from None
        return await inner(request, context)

    return parsing

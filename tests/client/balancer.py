"""A balancer of gRPC calls that brings those of one shard to one server, as Envoy does by a header's hash."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from functools import partial
from hashlib import sha256
from typing import Any, Self

import grpc

from conveyor.client.shards import HEADER


class Balancer(grpc.GenericRpcHandler):
    """Forwards each call to one of `homes`, the servers that may have new calls. Calls stay where they are."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = addresses
        self.homes = list(range(len(addresses)))
        self.streams: dict[str, list[int]] = defaultdict(list)  # where each shard's streams went, in order
        self._running = [asyncio.Event() for _ in addresses]
        for running in self._running:
            running.set()

    async def __aenter__(self) -> Self:
        self._channels = [grpc.aio.insecure_channel(address) for address in self._addresses]
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((self,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(0)
        for channel in self._channels:
            await channel.close()

    def pause(self, number: int) -> None:
        """Lets nothing through to a server any more, and nothing back; no call ends for it."""
        self._running[number].clear()

    def go_on(self, number: int) -> None:
        """Lets through what has waited."""
        self._running[number].set()

    def home(self, shard: str) -> int:
        """The server that a shard's next call comes to: as few as can be move when servers come and go."""
        return max(self.homes, key=lambda number: sha256(f"{shard} {number}".encode()).digest())

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """Takes every call."""
        return grpc.stream_stream_rpc_method_handler(partial(self._forward, details.method))

    async def _forward(
        self, method: str, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        metadata = dict(context.invocation_metadata() or ())
        number = self.home(str(metadata.get(HEADER, "")))
        if method.endswith("/Stream"):
            self.streams[str(metadata[HEADER])].append(number)
        call = self._channels[number].stream_stream(method)(timeout=context.time_remaining())
        pump = asyncio.ensure_future(self._pump(number, requests, call))
        try:
            async for response in call:
                await self._running[number].wait()
                yield response
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
        finally:
            pump.cancel()
            call.cancel()

    async def _pump(self, number: int, requests: AsyncIterator[bytes], call: Any) -> None:
        async for request in requests:
            await self._running[number].wait()
            await call.write(request)
        await call.done_writing()

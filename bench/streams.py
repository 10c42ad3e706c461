"""Lean clients with a stream each and one message in flight, the same for the echo service and for Conveyor."""

import asyncio
from time import perf_counter
from typing import Any

import grpc

from bench import echo
from bench.measurement import Measurement, Watch
from bench.model import VOCABULARY
from conveyor.v1 import sequence_service_pb2_grpc, session_pb2, step_pb2


class Streams:
    """Sends chunks of one token over `method`, on one channel, and reads one answer for each."""

    method: str
    response_type: type[Any]

    def __init__(self, address: str) -> None:
        self._address = address
        self._chunks: list[step_pb2.Chunk] = []

    async def start(self) -> None:
        """Connects."""
        self._channel = grpc.aio.insecure_channel(self._address)
        self._stream = self._channel.stream_stream(
            self.method, step_pb2.StreamRequest.SerializeToString, self.response_type.FromString
        )
        await self._channel.channel_ready()

    async def stop(self) -> None:
        """Disconnects."""
        await self._channel.close()

    async def measure(self, count: int, seconds: float) -> Measurement:
        """Steps `count` sessions, each over its own stream, as fast as answers come."""
        while len(self._chunks) < count:
            self._chunks.append(await self._open())
        watch = Watch(seconds)
        await asyncio.gather(*(self._step(chunk, watch) for chunk in self._chunks[:count]))
        return watch.measurement()

    async def _open(self) -> step_pb2.Chunk:
        """The first chunk of a new session."""
        chunk = step_pb2.Chunk(
            session_id=f"{len(self._chunks):032x}", position=0, tokens=[len(self._chunks) % VOCABULARY]
        )
        chunk.outputs.top_k = 1
        return chunk

    async def _step(self, chunk: step_pb2.Chunk, watch: Watch) -> None:
        call = self._stream()
        is_running = True
        while is_running:
            begun = perf_counter()
            await call.write(step_pb2.StreamRequest(chunks=[chunk]))
            self.check(await call.read())
            chunk.position += 1
            is_running = watch.lap(begun)
        await call.done_writing()
        await call.read()

    def check(self, response: Any) -> None:
        """Refuses an answer that is no step's."""


class EchoStreams(Streams):
    """Of the echo service."""

    method = echo.METHOD
    response_type = step_pb2.StreamRequest


class ConveyorStreams(Streams):
    """Of a Conveyor server."""

    method = "/conveyor.v1.SequenceService/Stream"
    response_type = step_pb2.StreamResponse

    async def _open(self) -> step_pb2.Chunk:
        chunk = await super()._open()
        stub: Any = sequence_service_pb2_grpc.SequenceServiceStub(self._channel)  # type: ignore[no-untyped-call]
        await stub.OpenSession(session_pb2.OpenSessionRequest(session_id=chunk.session_id))
        return chunk

    def check(self, response: Any) -> None:
        if response.results[0].error.code:
            raise RuntimeError(response.results[0].error.message)

"""The least server: Conveyor's runner behind a bare `grpc.aio` stream, without sessions, checks, retries or metrics.

What it costs is about what gRPC in Python and ONNX Runtime cost together: what a server of these two could come near.
Run as `python -m bench.least MODEL`; it prints its address.
"""

import asyncio
import sys
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import grpc
import numpy as np

from bench.model import MAX_SESSIONS
from conveyor.cli.serve import loop_factory
from conveyor.engine.feeds import Feeds, Results, TopFeeds
from conveyor.engine.limits import Device, Limits
from conveyor.engine.runner import Runner
from conveyor.engine.runs import INLINE_SESSIONS
from conveyor.graph.model_file import read_model
from conveyor.server import tune_interpreter
from conveyor.v1 import session_pb2, step_pb2

SERVICE = "conveyor.v1.SequenceService"
MAX_BATCH = Limits().max_batch

Waiting = tuple[str, int, "asyncio.Future[tuple[list[int], list[float]]]"]  # session, token, answer


class Batcher:
    """Runs what has come together, one batch at a time: a small one on the loop, others on a thread."""

    def __init__(self, model: Path) -> None:
        device = Device("cpu", num_threads=1)
        self._runner = Runner(read_model(model), 1 + 2 * MAX_SESSIONS, device, max_batch=MAX_BATCH)
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Waiting] = []
        self._slots: dict[str, tuple[int, int]] = {}  # to read and to write; they change places with each step
        self._batches: SimpleQueue[tuple[list[Waiting], Feeds]] = SimpleQueue()
        self._is_running = self._is_due = False
        Thread(target=self._run_batches, daemon=True).start()

    def submit(self, session_id: str, token: int) -> "asyncio.Future[tuple[list[int], list[float]]]":
        """The best token after this one and its log-probability."""
        answer = self._loop.create_future()
        self._waiting.append((session_id, token, answer))
        if not self._is_due and not self._is_running:
            self._is_due = True
            self._loop.call_soon(self._start)
        return answer

    def _start(self) -> None:
        self._is_due = False
        if self._is_running or not self._waiting:
            return
        batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        feeds = self._feeds(batch)
        if len(batch) <= INLINE_SESSIONS:
            self._finish(batch, self._run(feeds))
        else:
            self._is_running = True
            self._batches.put((batch, feeds))

    def _feeds(self, batch: list[Waiting]) -> Feeds:
        slots = [self._next_slots(session_id) for session_id, _, _ in batch]
        read, write = (np.array(each, np.int64) for each in zip(*slots, strict=True))
        tokens = {"tokens": np.array([[token for _, token, _ in batch]])}
        top = TopFeeds(np.arange(len(batch)), 1)
        return Feeds(1, tokens, np.ones(len(batch), np.int32), read, write, top=top)

    def _next_slots(self, session_id: str) -> tuple[int, int]:
        first = 1 + 2 * len(self._slots)
        write, read = self._slots.get(session_id, (first, first + 1))
        self._slots[session_id] = read, write
        return read, write

    def _run(self, feeds: Feeds) -> Results:
        results = Results()
        self._runner.run(feeds, results)
        return results

    def _run_batches(self) -> None:
        while True:
            batch, feeds = self._batches.get()
            self._loop.call_soon_threadsafe(self._finish, batch, self._run(feeds))

    def _finish(self, batch: list[Waiting], results: Results) -> None:
        self._is_running = False
        self._start()
        for (_, _, answer), tokens, scores in zip(batch, results.top_tokens, results.top_scores, strict=True):
            answer.set_result((tokens, scores))


async def _stream(batcher: Batcher, _: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    while (request := await context.read()) is not grpc.aio.EOF:
        chunk = request.chunks[0]
        tokens, scores = await batcher.submit(chunk.session_id, chunk.tokens[0])
        response = step_pb2.StreamResponse()
        result = response.results.add(session_id=chunk.session_id, position=chunk.position + 1)
        result.top_tokens.k = 1
        result.top_tokens.tokens.extend(tokens)
        result.top_tokens.log_probabilities.extend(scores)
        await context.write(response)


async def _open(request: session_pb2.OpenSessionRequest, _: object) -> session_pb2.OpenSessionResponse:
    return session_pb2.OpenSessionResponse()


async def serve(model: Path) -> None:
    """Serves until the process is ended."""
    tune_interpreter()
    stream = grpc.stream_stream_rpc_method_handler(
        partial(_stream, Batcher(model)), step_pb2.StreamRequest.FromString, step_pb2.StreamResponse.SerializeToString
    )
    opening = grpc.unary_unary_rpc_method_handler(
        _open, session_pb2.OpenSessionRequest.FromString, session_pb2.OpenSessionResponse.SerializeToString
    )
    server = grpc.aio.server()
    handlers: dict[str, Any] = {"Stream": stream, "OpenSession": opening}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(Path(sys.argv[1])))

"""One client's stream: many sessions' chunks in, whatever became ready together out."""

import asyncio
from collections import deque
from typing import Any

from google.protobuf.message import DecodeError
from grpc.aio import EOF

from conveyor.engine.engines import Engines
from conveyor.engine.work import Answer, EndReason, Token
from conveyor.errors import InvalidArgument, NotFound
from conveyor.rpc.convert import END_REASONS, chunk_work, fill_result
from conveyor.rpc.status import Context, fill_error
from conveyor.rpc.step import received_of
from conveyor.v1 import step_pb2

# Results are sent on in messages of about this size at most, below the 4 MiB that clients take by default.
MAX_RESPONSE_BYTES = 1 << 20
# Chunks of one message that are submitted before others on the event loop have their turn.
MAX_TURN_CHUNKS = 1024


class Stream:
    """Reads chunks until `max_steps` steps have not been answered; that bounds what a slow reader makes us hold.

    One task reads and submits, another writes. The engine puts outcomes into the outbox between the two, so a message
    carries all that became ready while the one before it was being sent.
    """

    stays = True

    def __init__(self, engines: Engines, context: Context, max_steps: int) -> None:
        self._engines = engines
        self._context = context
        self._max_steps = max_steps
        self._num_steps = 0  # read, and their answers not yet sent
        self._outbox = step_pb2.StreamResponse()
        self._outbox_bytes = 0
        self._outbox_steps = 0
        self._is_empty = True  # the outbox
        self._full: deque[tuple[step_pb2.StreamResponse, int]] = deque()  # messages before the outbox, their steps
        self._recovering: dict[str, list[step_pb2.Chunk]] = {}  # chunks of sessions that are being taken up
        self._tasks: set[asyncio.Task[None]] = set()
        self._half_closed = False
        self._failure: Exception | None = None
        self._news: asyncio.Future[None] | None = None  # the writer waits for it
        self._room: asyncio.Future[None] | None = None  # the reader waits for it

    async def run(self) -> None:
        """Serves the stream until the client half-closes it and all is answered.

        Raises:
            ConveyorError: a malformed message, or the server drains.
        """
        reader = asyncio.create_task(self._read())
        try:
            await self._write()
        finally:
            for task in (reader, *self._tasks):
                task.cancel()
            for engine in self._engines.all():
                engine.detach(self)

    def fail(self, error: Exception) -> None:
        """Ends the stream with this error after what waits in the outbox."""
        self._failure = self._failure or error
        self._wake_writer()

    # What the engine calls.

    def put(self, tag: Any, outcome: Answer | Token | Exception) -> None:
        """Takes what came of a chunk."""
        session_id, request_id, top_k, num_steps = tag
        result = self._outbox.results.add()
        result.session_id = session_id
        result.request_id = request_id
        self._is_empty = False
        self._outbox_steps += num_steps
        if isinstance(outcome, Answer):
            self._outbox_bytes += fill_result(result, outcome, top_k)
        elif isinstance(outcome, Exception):
            fill_error(result.error, outcome)
            self._outbox_bytes += result.ByteSize()  # what the client called a session may be long
        if self._outbox_bytes > MAX_RESPONSE_BYTES:
            self._begin_message()

    def end(self, session_id: str, reason: EndReason, position: int) -> None:
        """Takes the end of a session that was stepped here."""
        self._outbox.ended.add(session_id=session_id, reason=END_REASONS[reason], position=position)
        self._is_empty = False

    def flush(self) -> None:
        """Sends what has come together."""
        self._wake_writer()

    # The reader.

    async def _read(self) -> None:
        try:
            while (request := await self._context.read()) is not EOF:
                for number, chunk in enumerate(request.chunks, 1):
                    self._submit(chunk)
                    if self._num_steps >= self._max_steps:
                        await self._wait_for_room()
                    elif number % MAX_TURN_CHUNKS == 0:
                        await asyncio.sleep(0)
                if not self._is_empty or self._full:
                    self._wake_writer()  # something was refused at once
        except DecodeError:
            self.fail(InvalidArgument("request", "the message is not a StreamRequest"))
        except Exception as error:
            self.fail(error)
        else:
            self._half_closed = True
            self._wake_writer()

    def _submit(self, message: step_pb2.Chunk) -> None:
        waiting = self._recovering.get(message.session_id) if self._recovering else None
        if waiting is None:
            if self._try(message, may_recover=self._engines.recovery is not None):
                return
            waiting = self._recovering[message.session_id] = []
            task = asyncio.create_task(self._recover(message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        waiting.append(message)
        self._num_steps += 1

    async def _recover(self, first: step_pb2.Chunk) -> None:
        """Takes a session up that may be elsewhere; then the chunks that have come for it have their turn."""
        session_id, failure = first.session_id, None
        try:
            await self._engines.holding(session_id, received_of(first), first.epoch, is_doubtful=True)
        except Exception as error:
            failure = error
        for message in self._recovering.pop(session_id):
            self._num_steps -= 1
            if failure is None:
                self._try(message, may_recover=False)
            else:
                self.put((session_id, message.request_id, 0, 1), failure)
                self._num_steps += 1
        self._wake_writer()

    def _try(self, message: step_pb2.Chunk, *, may_recover: bool) -> bool:
        """Submits a chunk; False if its session may be elsewhere."""
        session_id = message.session_id
        tag = (session_id, message.request_id, 0, 1)
        try:
            engine = self._engines.of_session(session_id)
            work = chunk_work(message, engine, self, None)
            # All inputs have as many steps, or the engine refuses them.
            num_steps = len(next(iter(work.inputs.values()))) if work.inputs else work.num_steps
            work.tag = tag = (session_id, message.request_id, work.want.top_k, max(num_steps, 1))
            if may_recover and engine.asks_again(session_id, work.position):
                return False
            engine.submit(work)
        except NotFound as error:
            if may_recover:
                return False
            self.put(tag, error)
        except Exception as error:
            self.put(tag, error)
        self._num_steps += tag[3]
        return True

    async def _wait_for_room(self) -> None:
        self._wake_writer()
        self._room = asyncio.get_running_loop().create_future()
        await self._room

    # The writer.

    async def _write(self) -> None:
        while True:
            if not self._is_empty or self._full:
                response, num_steps = self._take_message()
                await self._context.write(response)
                self._make_room(num_steps)
            elif self._failure is not None:
                raise self._failure
            elif self._half_closed and not self._num_steps:
                return
            else:
                self._news = asyncio.get_running_loop().create_future()
                await self._news

    def _wake_writer(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _begin_message(self) -> None:
        self._full.append(self._take_outbox())

    def _take_message(self) -> tuple[step_pb2.StreamResponse, int]:
        return self._full.popleft() if self._full else self._take_outbox()

    def _take_outbox(self) -> tuple[step_pb2.StreamResponse, int]:
        taken = self._outbox, self._outbox_steps
        self._outbox = step_pb2.StreamResponse()
        self._outbox_bytes = self._outbox_steps = 0
        self._is_empty = True
        return taken

    def _make_room(self, num_steps: int) -> None:
        self._num_steps -= num_steps
        if self._room is not None and self._num_steps < self._max_steps and not self._room.done():
            self._room.set_result(None)

"""One `ModelStreamInfer` call: requests in, an answer to each out, in their order."""

import asyncio

from google.protobuf.message import DecodeError
from grpc.aio import EOF

from conveyor.errors import InvalidArgument
from conveyor.inference import infer_pb2
from conveyor.rpc.inference.infer import Inference
from conveyor.rpc.status import Context, message_of
from conveyor.rpc.step import deadline_of

# What a client that does not read makes us hold: requests, and the bytes of them and of their answers.
MAX_UNANSWERED = 256
MAX_UNANSWERED_BYTES = 64 << 20

Answering = asyncio.Task[infer_pb2.ModelStreamInferResponse]


class InferStream:
    """Reads requests, each of which is a task that is awaited in the order of reading.

    Clients are not told which request an error is about, so it has to come in that request's place.
    """

    def __init__(self, inference: Inference, context: Context) -> None:
        self._inference = inference
        self._context = context
        self._deadline = deadline_of(context)
        self._num_requests = self._num_bytes = 0  # read, and their answers not yet sent
        self._room = asyncio.Event()
        self._answers: asyncio.Queue[tuple[Answering, int] | None] = asyncio.Queue()  # None ends the stream
        self._failure: Exception | None = None

    async def run(self) -> None:
        """Serves the stream until the client half-closes it and all is answered.

        Raises:
            ConveyorError: a malformed message, or the server drains.
        """
        reader = asyncio.create_task(self._read())
        try:
            await self._write()
        finally:
            reader.cancel()
            while not self._answers.empty():
                if (unsent := self._answers.get_nowait()) is not None:
                    unsent[0].cancel()

    def fail(self, error: Exception) -> None:
        """Ends the stream with this error after the answers to what was read."""
        self._failure = self._failure or error
        self._answers.put_nowait(None)

    async def _read(self) -> None:
        try:
            while (request := await self._context.read()) is not EOF:
                num_bytes = request.ByteSize() + self._inference.answer_bytes(request)
                self._answers.put_nowait((asyncio.create_task(self._answer(request)), num_bytes))
                await self._take_room(num_bytes)
        except DecodeError:
            self.fail(InvalidArgument("request", "the message is not a ModelInferRequest"))
        except Exception as error:
            self.fail(error)
        else:
            self._answers.put_nowait(None)

    async def _answer(self, request: infer_pb2.ModelInferRequest) -> infer_pb2.ModelStreamInferResponse:
        response = infer_pb2.ModelStreamInferResponse()
        try:
            response.infer_response.CopyFrom(await self._inference.answer(request, self._deadline))
        except Exception as error:
            response.error_message = message_of(error)
            response.infer_response.id = request.id
        # Of models with many answers to a request clients have learnt to read on until they see this.
        response.infer_response.parameters["triton_final_response"].bool_param = True
        return response

    async def _take_room(self, num_bytes: int) -> None:
        self._num_requests += 1
        self._num_bytes += num_bytes
        while self._num_requests >= MAX_UNANSWERED or self._num_bytes >= MAX_UNANSWERED_BYTES:
            self._room.clear()
            await self._room.wait()

    async def _write(self) -> None:
        while (unsent := await self._answers.get()) is not None:
            answering, num_bytes = unsent
            await self._context.write(await answering)
            self._num_requests -= 1
            self._num_bytes -= num_bytes
            self._room.set()
        if self._failure is not None:
            raise self._failure

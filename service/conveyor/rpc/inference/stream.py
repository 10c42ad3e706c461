"""One `ModelStreamInfer` call: requests in, an answer to each out, in their order."""

import asyncio

from google.protobuf.message import DecodeError
from grpc.aio import EOF

from conveyor.errors import InvalidArgument
from conveyor.inference import infer_pb2
from conveyor.rpc.inference.infer import Inference
from conveyor.rpc.status import Context, message_of
from conveyor.rpc.step import deadline_of

# What a client that does not read makes us hold.
MAX_UNANSWERED = 256

Answering = asyncio.Task[infer_pb2.ModelStreamInferResponse]


class InferStream:
    """Reads requests until `MAX_UNANSWERED` have not been answered; each is a task, awaited in the order of reading.

    Clients are not told which request an error is about, so it has to come in that request's place.
    """

    def __init__(self, inference: Inference, context: Context) -> None:
        self._inference = inference
        self._context = context
        self._deadline = deadline_of(context)
        self._room = asyncio.Semaphore(MAX_UNANSWERED)
        self._answers: asyncio.Queue[Answering | None] = asyncio.Queue()  # None ends the stream
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
                if (answering := self._answers.get_nowait()) is not None:
                    answering.cancel()

    def fail(self, error: Exception) -> None:
        """Ends the stream with this error after the answers to what was read."""
        self._failure = self._failure or error
        self._answers.put_nowait(None)

    async def _read(self) -> None:
        try:
            while await self._room.acquire():
                if (request := await self._context.read()) is EOF:
                    break
                self._answers.put_nowait(asyncio.create_task(self._answer(request)))
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
        return response

    async def _write(self) -> None:
        while (answering := await self._answers.get()) is not None:
            await self._context.write(await answering)
            self._room.release()
        if self._failure is not None:
            raise self._failure

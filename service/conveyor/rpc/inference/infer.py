"""One inference request: read, run, answered and counted."""

import time
from collections.abc import Sequence
from dataclasses import replace

from conveyor.engine.engine import Engine
from conveyor.engine.engines import Engines
from conveyor.engine.work import Answer
from conveyor.errors import NotFound
from conveyor.inference import infer_pb2
from conveyor.rpc.inference.layout import Layout
from conveyor.rpc.inference.parameters import read_parameters
from conveyor.rpc.inference.request import Asked, read_request, read_version
from conveyor.rpc.inference.rows import Rows
from conveyor.rpc.inference.sequences import Sequences
from conveyor.rpc.inference.statistics import Statistics
from conveyor.rpc.inference.tensors import add_output


class Inference:
    """Answers the requests of unary calls and of streams."""

    def __init__(self, engines: Engines, statistics: Statistics) -> None:
        self._engines = engines
        self._statistics = statistics
        self._sequences, self._rows = Sequences(engines), Rows(engines)
        self._layouts: dict[str, Layout] = {}

    def layout_of(self, engine: Engine) -> Layout:
        """How the model's tensors lie in messages."""
        if engine.fingerprint not in self._layouts:
            self._layouts[engine.fingerprint] = Layout(engine.signature)
        return self._layouts[engine.fingerprint]

    def answer_bytes(self, request: infer_pb2.ModelInferRequest) -> int:
        """Size of the answer to a request, as far as its shapes tell before it is read."""
        try:
            engine = self._engines.of_model(request.model_name)
        except NotFound:
            return 0
        return self.layout_of(engine).answer_bytes(request)

    async def answer(self, request: infer_pb2.ModelInferRequest, deadline: float) -> infer_pb2.ModelInferResponse:
        """The response to a request that has to run before `deadline`, on the engine's clock.

        Raises:
            ConveyorError: it was refused or failed.
        """
        arrived = time.perf_counter()
        version = read_version(request.model_version, "model_version")
        parameters = read_parameters(request.parameters)
        deadline = min(deadline, time.monotonic() + parameters.timeout)
        name = request.model_name or self._engines.of_model("").name
        if not self._has_sequences(name):
            parameters = replace(parameters, sequence_id="")  # there is nothing that its requests could share
        async with self._sequences.turn(name, version, parameters) as engine:
            tallies, layout = self._statistics.of(engine), self.layout_of(engine)
            try:
                began = time.perf_counter()
                asked = read_request(request, layout, parameters)
                read = time.perf_counter()
                answers = await self._run(engine, layout, asked, deadline)
            except BaseException:  # a client that went away too
                tallies.fail.add(time.perf_counter() - arrived)
                raise
        ran = time.perf_counter()
        response = _response(engine, layout, request.id, answers)
        done = time.perf_counter()
        run_seconds = max(answer.run_seconds for answer in answers)
        tallies.succeeded(
            len(answers),
            success=done - arrived,
            queue=(began - arrived) + (ran - read - run_seconds),
            compute_input=read - began,
            compute_infer=run_seconds,
            compute_output=done - ran,
        )
        return response

    def _has_sequences(self, model: str) -> bool:
        return any(self.layout_of(engine).is_sequence for engine in self._engines.all() if engine.name == model)

    async def _run(self, engine: Engine, layout: Layout, asked: Asked, deadline: float) -> list[Answer]:
        if layout.is_sequence:
            return [await self._sequences.advance(engine, asked, deadline)]
        return await self._rows.run(engine, asked, deadline)


def _response(
    engine: Engine, layout: Layout, request_id: str, answers: Sequence[Answer]
) -> infer_pb2.ModelInferResponse:
    response = infer_pb2.ModelInferResponse(model_name=engine.name, model_version=str(engine.version), id=request_id)
    for name in answers[0].outputs:
        add_output(response, name, layout.joined(name, [answer.outputs[name] for answer in answers]))
    return response

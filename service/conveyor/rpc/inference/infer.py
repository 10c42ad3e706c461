"""One inference request: read, run, answered and counted."""

import time
from math import inf

from conveyor.engine.engine import Engine
from conveyor.engine.engines import Engines
from conveyor.engine.work import Answer
from conveyor.inference import infer_pb2
from conveyor.rpc.inference.layout import Layout, context_value
from conveyor.rpc.inference.parameters import Parameters, read_parameters
from conveyor.rpc.inference.request import read_inputs, read_version, read_want
from conveyor.rpc.inference.rows import Rows
from conveyor.rpc.inference.sequences import Sequences
from conveyor.rpc.inference.statistics import RequestTallies, Statistics
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

    async def answer(self, request: infer_pb2.ModelInferRequest, deadline: float) -> infer_pb2.ModelInferResponse:
        """The response to a request that has to run before `deadline`, on the engine's clock.

        Raises:
            ConveyorError: it was refused or failed.
        """
        arrived = time.perf_counter()
        engine = self._engines.of_model(request.model_name, read_version(request.model_version, "model_version"))
        tallies, layout = self._statistics.of(engine), self.layout_of(engine)
        try:
            answers = await self._run(request, engine, layout, deadline, tallies)
        except Exception:
            tallies.fail.add(time.perf_counter() - arrived)
            raise
        ran = time.perf_counter()
        response = infer_pb2.ModelInferResponse(
            model_name=engine.name, model_version=str(engine.version), id=request.id
        )
        for name in answers[0].outputs:
            add_output(response, name, layout.joined(name, [answer.outputs[name] for answer in answers]))
        now = time.perf_counter()
        tallies.compute_output.add(now - ran)
        tallies.succeeded(now - arrived, len(answers))
        return response

    async def _run(
        self,
        request: infer_pb2.ModelInferRequest,
        engine: Engine,
        layout: Layout,
        deadline: float,
        tallies: RequestTallies,
    ) -> list[Answer]:
        begun = time.perf_counter()
        parameters, want = read_parameters(request.parameters), read_want(request, layout)
        expected = layout.contexts if layout.is_sequence and parameters.is_start else {}
        given = read_inputs(request, layout, layout.inputs | expected)
        contexts = {name: context_value(spec, given.pop(name)) for name, spec in expected.items()}
        rows = layout.rows(given)
        tallies.compute_input.add(time.perf_counter() - begun)
        deadline = _earlier(deadline, parameters)
        if layout.is_sequence:
            return [await self._sequences.advance(engine, parameters, contexts, rows[0], want, deadline)]
        return await self._rows.run(engine, rows, want, deadline)


def _earlier(deadline: float, parameters: Parameters) -> float:
    return deadline if parameters.timeout == inf else min(deadline, time.monotonic() + parameters.timeout)

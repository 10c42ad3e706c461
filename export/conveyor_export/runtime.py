"""Runs an exported graph on the CPU with ONNX Runtime, by the signature's names."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from conveyor.graph import ModelError
from conveyor.graph.parts import initialiser_model
from conveyor.signature import Signature
from conveyor_export.errors import GraphRefused
from conveyor_export.reasons import first_line

Arrays = dict[str, NDArray[Any]]


class GraphRunner:
    """A loaded graph. States are arguments and results; nothing is kept between runs."""

    def __init__(self, model: onnx.ModelProto, signature: Signature, num_threads: int = 1) -> None:
        self._output_names = [output.name for output in signature.outputs]
        self._state_outputs = {state.output: state.name for state in signature.states}
        self._session = _load(model, num_threads)

    def run(self, inputs: Arrays, states: Arrays) -> tuple[Arrays, Arrays]:
        """Returns the outputs and the new states, the latter under the states' own names.

        Raises:
            GraphRefused: the graph does not take these shapes.
        """
        arrays = _run(self._session, [*self._output_names, *self._state_outputs], {**inputs, **states})
        outputs = {name: arrays[name] for name in self._output_names}
        return outputs, {state: arrays[name] for name, state in self._state_outputs.items()}


class InitialiserRunner:
    """The part of a graph that is run when a session opens, with nothing but the contexts that a client gives."""

    def __init__(self, model: onnx.ModelProto, signature: Signature) -> None:
        self._names = {output: spec.name for output, spec in signature.initialisers.items()}
        try:
            part = initialiser_model(model, signature)
        except ModelError as error:
            raise GraphRefused(f"Conveyor does not serve this graph: {error}") from error
        assert part is not None  # noqa: S101  # it is where a signature has no initialisers; this tells mypy
        self._session = _load(part, num_threads=1)

    def run(self, contexts: Arrays) -> Arrays:
        """First states and computed contexts under their own names.

        Raises:
            GraphRefused: the graph does not take these shapes.
        """
        used = {node.name for node in self._session.get_inputs()}
        arrays = _run(self._session, list(self._names), {name: contexts[name] for name in used})
        return {name: arrays[output] for output, name in self._names.items()}


def _load(model: onnx.ModelProto, num_threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's classes are private and share no base
        raise GraphRefused(f"ONNX Runtime cannot load the graph: {first_line(error)}") from error


def _run(session: onnxruntime.InferenceSession, names: list[str], feeds: Arrays) -> Arrays:
    try:
        results = session.run(names, feeds)
    except Exception as error:
        raise GraphRefused(f"ONNX Runtime cannot run the graph: {first_line(error)}") from error
    return dict(zip(names, (np.asarray(result) for result in results), strict=True))

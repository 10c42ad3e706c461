"""Runs an exported graph on the CPU with ONNX Runtime, by the signature's names."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from conveyor.signature import Signature
from conveyor_export.errors import GraphRefused
from conveyor_export.reasons import first_line

Arrays = dict[str, NDArray[Any]]


class GraphRunner:
    """A loaded graph. States are arguments and results; nothing is kept between runs."""

    def __init__(self, model: onnx.ModelProto, signature: Signature, num_threads: int = 1) -> None:
        self._output_names = [output.name for output in signature.outputs]
        self._state_outputs = {state.output: state.name for state in signature.states}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's classes are private and share no base
            raise GraphRefused(f"ONNX Runtime cannot load the graph: {first_line(error)}") from error

    def run(self, inputs: Arrays, states: Arrays) -> tuple[Arrays, Arrays]:
        """Returns the outputs and the new states, the latter under the states' own names.

        Raises:
            GraphRefused: the graph does not take these shapes.
        """
        names = [*self._output_names, *self._state_outputs]
        try:
            results = self._session.run(names, {**inputs, **states})
        except Exception as error:
            raise GraphRefused(f"ONNX Runtime cannot run the graph: {first_line(error)}") from error
        arrays = dict(zip(names, (np.asarray(result) for result in results), strict=True))
        outputs = {name: arrays[name] for name in self._output_names}
        return outputs, {state: arrays[name] for name, state in self._state_outputs.items()}

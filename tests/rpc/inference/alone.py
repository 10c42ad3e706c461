"""Plain ONNX Runtime: what one sequence gives when it runs alone, its states carried by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from conveyor.signature import Signature, StateSpec


class Alone:
    """A model file, run step by step with nothing of ours."""

    def __init__(self, path: Path) -> None:
        proto = onnx.load(path)
        self._signature = Signature.from_json(
            next(prop.value for prop in proto.metadata_props if prop.key == "conveyor.signature")
        )
        self._session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(self, chunks: list[dict[str, np.ndarray]]) -> list[np.ndarray]:
        """The first output of each chunk of one sequence; arrays are in the graph's own shapes."""
        states = {state.name: initial(state) for state in self._signature.states}
        name, replaced = self._signature.outputs[0].name, [state.output for state in self._signature.states]
        outputs = []
        for chunk in chunks:
            first, *after = self._session.run([name, *replaced], {**chunk, **states})
            states = dict(zip(states, after, strict=True))
            outputs.append(first)
        return outputs


def initial(state: StateSpec) -> np.ndarray[Any, Any]:
    """The state of a new sequence in the graph's own shape."""
    value = np.zeros(state.shape, state.dtype)
    if state.initial is not None:
        value.flat = state.initial
    return value if state.axis.batch is None else np.expand_dims(value, state.axis.batch)

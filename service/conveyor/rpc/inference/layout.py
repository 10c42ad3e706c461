"""How a model's tensors lie in messages: the batch axis first, the time axis second, however the graph has them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TypeVar

import numpy as np

from conveyor.engine.assembly import from_layout, to_layout
from conveyor.engine.work import Array
from conveyor.errors import InvalidArgument
from conveyor.inference import infer_pb2
from conveyor.rpc.inference.controls import CONTROLS
from conveyor.signature import Axis, ContextSpec, Signature, TensorSpec

Spec = TypeVar("Spec", bound=TensorSpec)

FREE = -1


class Layout:
    """The tensors that clients send and ask for, by name; their `axis` is that of the messages.

    Without `has_batch` the graph takes one sequence at a time, and its tensors keep its own axes.
    `is_sequence` tells a model that remembers something from one that does not. Its `controls`, as they are in the
    signature, are filled by the server, and not among the inputs. `usual_outputs` are those that cost nothing extra.
    """

    def __init__(self, signature: Signature) -> None:
        tensors = (*signature.inputs, *signature.outputs)
        self.is_sequence = bool(signature.states or set(signature.contexts) - set(signature.constants))
        self.has_batch = all(spec.axis.batch is not None for spec in tensors)
        self._has_time = any(spec.axis.time is not None for spec in tensors)
        self.controls = [spec for spec in signature.inputs if self.is_sequence and spec.name in CONTROLS]
        self.inputs = {spec.name: self._in_messages(spec) for spec in signature.inputs if spec not in self.controls}
        self.outputs = {spec.name: self._in_messages(spec) for spec in signature.outputs}
        self.usual_outputs = tuple(name for name, spec in self.outputs.items() if not spec.is_optional)
        self.contexts = {spec.name: _batch_first(spec) for spec in signature.given_contexts}

    def shape(self, spec: TensorSpec) -> list[int]:
        """The lengths of a tensor's axes; a batch or time axis is free."""
        return _with_lengths(spec, FREE if self.has_batch else 1)

    def check(self, spec: TensorSpec, shape: Sequence[int]) -> None:
        """Holds the shape of a tensor in a request against the model's.

        Raises:
            InvalidArgument: it is another, or a batch of a model that takes one sequence in a request.
        """
        if isinstance(spec, ContextSpec) and spec.is_constant and prod(shape) == prod(spec.shape):
            return  # clients that know no scalars send one element
        expected = _with_lengths(spec, 1 if self.is_sequence or not self.has_batch else FREE)
        pairs = zip(expected, shape, strict=False)
        if len(shape) != len(expected) or not all(got >= 1 if want == FREE else got == want for want, got in pairs):
            raise InvalidArgument(f"inputs[{spec.name}].shape", f"expected {expected}, got {list(shape)}")

    def answer_bytes(self, request: infer_pb2.ModelInferRequest) -> int:
        """Size of the outputs that a request asks for, of as many rows and steps as its tensors claim to be."""
        names = [output.name for output in request.outputs] or self.usual_outputs
        step_bytes = sum(self.outputs[name].num_bytes for name in names if name in self.outputs)
        return step_bytes * max((self._num_steps(tensor) for tensor in request.inputs), default=1)

    def _num_steps(self, tensor: infer_pb2.ModelInferRequest.InferInputTensor) -> int:
        spec = self.inputs.get(tensor.name)
        if spec is None or len(tensor.shape) != spec.rank:
            return 1
        return max(1, prod(tensor.shape[axis] for axis in (spec.axis.batch, spec.axis.time) if axis is not None))

    def rows(self, arrays: Mapping[str, Array]) -> list[dict[str, Array]]:
        """Splits the inputs of a request by its batch axis, into what each session takes: `[steps, ...]`.

        Raises:
            InvalidArgument: they have not all as many rows.
        """
        steps = {name: from_layout(array, self.inputs[name]) for name, array in arrays.items()}
        num_rows = next((array.shape[1] for array in steps.values()), 1)
        for name, array in steps.items():
            if array.shape[1] != num_rows:
                raise InvalidArgument(f"inputs[{name}].shape", f"a batch of {array.shape[1]}, others of {num_rows}")
        return [{name: array[:, row] for name, array in steps.items()} for row in range(num_rows)]

    def joined(self, name: str, rows: Sequence[Array]) -> Array:
        """The inverse of `rows` for one output."""
        return to_layout(np.stack(rows, axis=1), self.outputs[name])

    def _in_messages(self, spec: Spec) -> Spec:
        batch, time = spec.axis.batch, spec.axis.time
        if self.has_batch:
            return replace(spec, axis=Axis(batch=0, time=1 if self._has_time else None))
        if self._has_time and time is None:  # a value for each run, of which there is one for each step
            return replace(spec, axis=Axis(batch=None if batch is None else batch + 1, time=0))
        return spec


def context_value(spec: TensorSpec, array: Array) -> Array:
    """A context as a session has it, without its batch axis."""
    return array.reshape(spec.shape)


def _batch_first(spec: Spec) -> Spec:
    return replace(spec, axis=Axis(batch=None if spec.axis.batch is None else 0))


def _with_lengths(spec: TensorSpec, batch: int) -> list[int]:
    lengths = list(spec.shape)
    for place, length in sorted((p, n) for p, n in ((spec.axis.batch, batch), (spec.axis.time, FREE)) if p is not None):
        lengths.insert(place, length)
    return lengths

"""What a request gives and asks for, held against the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from conveyor.engine.work import Array, Want
from conveyor.errors import InvalidArgument
from conveyor.inference import infer_pb2
from conveyor.rpc.inference.controls import control_value
from conveyor.rpc.inference.layout import Layout, context_value
from conveyor.rpc.inference.parameters import Parameters, refuse_parameters
from conveyor.rpc.inference.tensors import read_tensor
from conveyor.signature import ContextSpec, TensorSpec


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as the engine can take it: `rows` are the inputs of each session, `[steps, ...]`.

    The `contexts` are for the sessions that it opens.
    """

    parameters: Parameters
    want: Want
    contexts: dict[str, Array]
    rows: list[dict[str, Array]]


def read_request(request: infer_pb2.ModelInferRequest, layout: Layout, parameters: Parameters) -> Asked:
    """Reads a request to the model of this layout; `parameters` are its own.

    Raises:
        InvalidArgument: a tensor is missing, unknown, given twice or malformed.
        Unimplemented: it asks for what is not served.
    """
    want = _read_want(request, layout)
    # Clients of Triton send a constant with every request: that of the first one counts.
    is_start = parameters.is_start or not layout.is_sequence
    contexts = {name: spec for name, spec in layout.contexts.items() if is_start or spec.is_constant}
    given = _read_inputs(request, layout, layout.inputs | contexts)
    values = {name: context_value(spec, given.pop(name)) for name, spec in contexts.items() if name in given}
    rows = layout.rows(given)
    num_steps = len(next(iter(rows[0].values()), " "))  # a model without inputs makes one step
    for spec in layout.controls:
        rows[0][spec.name] = control_value(spec, parameters, num_steps)
    return Asked(parameters, want, values, rows)


def _read_inputs(
    request: infer_pb2.ModelInferRequest, layout: Layout, specs: Mapping[str, TensorSpec]
) -> dict[str, Array]:
    """The tensors of `specs`, each of which must be given once, in the shapes of the message."""
    raws, arrays = request.raw_input_contents, dict[str, Array]()
    if raws and len(raws) != len(request.inputs):
        raise InvalidArgument("raw_input_contents", f"{len(raws)} for {len(request.inputs)} inputs")
    for index, tensor in enumerate(request.inputs):
        refuse_parameters(tensor.parameters, f"inputs[{tensor.name}]")
        spec = _spec_of(tensor.name, specs, layout)
        if tensor.name in arrays:
            raise InvalidArgument(f"inputs[{tensor.name}]", "given twice")
        layout.check(spec, tensor.shape)
        arrays[tensor.name] = read_tensor(tensor, raws[index] if raws else None, spec.dtype)
    for name, spec in specs.items():
        if name not in arrays and not (isinstance(spec, ContextSpec) and spec.default is not None):
            raise InvalidArgument(f"inputs[{name}]", "missing: the model needs it")
    return arrays


def _spec_of(name: str, specs: Mapping[str, TensorSpec], layout: Layout) -> TensorSpec:
    if name not in specs:
        if name in layout.contexts:
            raise InvalidArgument(f"inputs[{name}]", "only the request that begins a sequence has it")
        raise InvalidArgument(f"inputs[{name}]", f"expected {', '.join(specs) or 'no inputs'}")
    return specs[name]


def _read_want(request: infer_pb2.ModelInferRequest, layout: Layout) -> Want:
    names = [output.name for output in request.outputs]
    for output in request.outputs:
        refuse_parameters(output.parameters, f"outputs[{output.name}]")
        if output.name not in layout.outputs:
            raise InvalidArgument(f"outputs[{output.name}]", f"expected some of {', '.join(layout.outputs)}")
        if names.count(output.name) > 1:
            raise InvalidArgument(f"outputs[{output.name}]", "named twice")
    return _want(tuple(names) or layout.usual_outputs)


@lru_cache(1024)
def _want(names: tuple[str, ...]) -> Want:
    # One object for the same names: the engine checks each only once.
    return Want(names=names)


def read_version(text: str, field: str) -> int:
    """A model's version, 0 for the newest.

    Raises:
        InvalidArgument: it is no version.
    """
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) < 19 and int(text)):
        raise InvalidArgument(field, f"must be a whole number from 1, or empty, got {text[:30]!r}")
    return int(text)

"""What a graph declares of its inputs and outputs, as far as anything can be believed of it."""

from collections import Counter
from dataclasses import dataclass, replace

import onnx
from onnx import ModelProto, TensorShapeProto, ValueInfoProto, helper

# A length that is known, a symbol that occurs in another tensor too, or nothing.
Dim = int | str | None

# Symbols that say what they are, even where no other tensor has them.
BATCH_WORDS = {"b", "bs", "n", "batch", "batch_size", "batchsize", "num_sessions"}
TIME_WORDS = {"t", "time", "steps", "num_steps", "seq", "seq_len", "seq_length", "sequence_length", "num_frames"}


@dataclass(frozen=True, slots=True)
class GraphTensor:
    """An input or output of a graph. `dims` is None where not even the number of axes is known."""

    name: str
    dtype: str
    dims: tuple[Dim, ...] | None

    def fits(self, other: "GraphTensor") -> bool:
        """True if nothing that is known keeps one from taking the other's place."""
        if self.dtype != other.dtype or self.dims is None or other.dims is None:
            return self.dtype == other.dtype
        pairs = zip(self.dims, other.dims, strict=False)
        lengths = [pair for pair in pairs if all(isinstance(dim, int) for dim in pair)]
        return len(self.dims) == len(other.dims) and all(one == two for one, two in lengths)

    def merged(self, other: "GraphTensor") -> "GraphTensor":
        """The same tensor, with what the other knows better."""
        if self.dims is None or other.dims is None:
            return replace(self, dims=self.dims or other.dims)
        return replace(self, dims=tuple(min(pair, key=_vagueness) for pair in zip(self.dims, other.dims, strict=True)))


def _vagueness(dim: Dim) -> int:
    return 0 if isinstance(dim, int) else 1 if isinstance(dim, str) else 2


def graph_tensors(proto: ModelProto) -> tuple[dict[str, GraphTensor], dict[str, GraphTensor]]:
    """The inputs and the outputs, by name; inputs that have a value in the graph may be weights.

    Lengths of 0 stand for unknown ones, as some exporters write them. So do symbols that only one tensor has, if their
    name tells nothing.
    """
    inferred = _inferred(proto)
    inputs = [_tensor(value, value) for value in proto.graph.input]
    outputs = [_tensor(value, inferred.get(value.name, value)) for value in proto.graph.output]
    uses = Counter(dim for tensor in (*inputs, *outputs) for dim in set(tensor.dims or ()) if isinstance(dim, str))
    known = {symbol for symbol, count in uses.items() if count > 1 or symbol.lower() in BATCH_WORDS | TIME_WORDS}
    tensors = [_without_strays(tensor, known) for tensor in (*inputs, *outputs)]
    return {t.name: t for t in tensors[: len(inputs)]}, {t.name: t for t in tensors[len(inputs) :]}


def _inferred(proto: ModelProto) -> dict[str, ValueInfoProto]:
    try:
        graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError):
        return {}
    return {value.name: value for value in graph.output}


def _tensor(value: ValueInfoProto, inferred: ValueInfoProto) -> GraphTensor:
    kind = value.type.tensor_type.elem_type
    try:
        dtype = str(helper.tensor_dtype_to_np_dtype(kind))
    except KeyError:
        dtype = "unknown"
    declared, known = (GraphTensor(value.name, dtype, _dims(each)) for each in (value, inferred))
    return declared.merged(known) if declared.fits(known) else declared


def _dims(value: ValueInfoProto) -> tuple[Dim, ...] | None:
    shape = value.type.tensor_type
    return tuple(map(_dim, shape.shape.dim)) if shape.HasField("shape") else None


def _dim(dim: TensorShapeProto.Dimension) -> Dim:
    symbol = dim.dim_param if not dim.dim_param.startswith("unk__") else ""  # those are shape inference's own
    return dim.dim_value or symbol or None


def _without_strays(tensor: GraphTensor, known: set[str]) -> GraphTensor:
    if tensor.dims is None:
        return tensor
    return replace(tensor, dims=tuple(dim if isinstance(dim, int) or dim in known else None for dim in tensor.dims))

"""Every reason for which an export is refused. The command line prints the message; nothing is written.

ExportError
├── SourceError           the checkpoint, module or vocabulary cannot be read, or does not follow the protocol
├── UnsupportedLayer      a recurrent layer that has no equal ONNX operator
├── UnsupportedOption     an option that this model or format cannot take
├── TraceFailed           PyTorch could not turn the module into a graph
└── ProofError            the graph is not the module
    ├── GraphRefused      ONNX Runtime or Conveyor does not take the graph
    ├── NameMismatch      tensors are missing or too many
    ├── DtypeMismatch     a tensor has another element type than the signature says
    ├── ShapeMismatch     an axis is fixed, or of another length than the signature says
    └── ValueMismatch     outputs or states differ by more than the tolerance
"""


class ExportError(Exception):
    """An export was refused; the message is one readable sentence."""


class SourceError(ExportError):
    """What was to be exported cannot be read, or does not follow `conveyor_export.protocol`."""


class UnsupportedLayer(ExportError):
    """A recurrent layer has no ONNX operator that computes the same."""


class UnsupportedOption(ExportError):
    """An option cannot be had for this model."""


class TraceFailed(ExportError):
    """PyTorch could not turn the module into a graph."""


class ProofError(ExportError):
    """The exported graph is not the module; the file was not written."""


class GraphRefused(ProofError):
    """ONNX Runtime does not load or run the graph, or Conveyor does not serve it."""


class NameMismatch(ProofError):
    """The tensors are not those of the signature. `missing` and `unexpected` are their names."""

    def __init__(self, where: str, missing: set[str], unexpected: set[str]) -> None:
        parts = [f"lacks {', '.join(sorted(missing))}"] if missing else []
        parts += [f"has {', '.join(sorted(unexpected))}, which the signature does not name"] if unexpected else []
        super().__init__(f"{where} {' and '.join(parts)}")
        self.missing, self.unexpected = missing, unexpected


class DtypeMismatch(ProofError):
    """A tensor's element type is not the signature's."""

    def __init__(self, name: str, expected: str, got: str) -> None:
        super().__init__(f"{name}: expected {expected}, got {got}")
        self.name, self.expected, self.got = name, expected, got


class ShapeMismatch(ProofError):
    """A tensor's shape is not the signature's. `T` and `B` stand for any number of steps and sessions."""

    def __init__(self, name: str, expected: tuple[object, ...], got: tuple[object, ...], hint: str = "") -> None:
        super().__init__(f"{name}: expected shape {_shape(expected)}, got {_shape(got)}{hint and f' ({hint})'}")
        self.name, self.expected, self.got = name, expected, got


class ValueMismatch(ProofError):
    """The graph computes something else. `difference` is the largest absolute one, `where` says in what run."""

    def __init__(self, difference: float, where: str, tolerance: float) -> None:
        super().__init__(f"{where}: differs from PyTorch by {difference:.3g}, more than the tolerance {tolerance:g}")
        self.difference, self.where, self.tolerance = difference, where, tolerance


def _shape(shape: tuple[object, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"

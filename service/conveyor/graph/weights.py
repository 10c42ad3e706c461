"""Weights that lie in files beside a model's own: read into it, from its own folder and no other."""

from pathlib import Path

from onnx import ModelProto, TensorProto
from onnx.external_data_helper import uses_external_data

from conveyor.graph.checks import MAX_BYTES, all_tensors
from conveyor.graph.errors import ModelError


def load_weights(proto: ModelProto, folder: Path) -> None:
    """Reads every weight that is kept outside the graph; afterwards there is none.

    Raises:
        ModelError: its file is outside the folder, missing or too short, or all together are too large.
    """
    left = MAX_BYTES
    for tensor in all_tensors(proto):
        if uses_external_data(tensor):
            left -= _load(tensor, folder, left)


def _load(tensor: TensorProto, folder: Path, limit: int) -> int:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = _inside(folder, entries.get("location", ""), tensor.name)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", -1))
        size = path.stat().st_size - offset if length < 0 else length
        if offset < 0 or size > limit:
            raise ModelError(f"weight {tensor.name}: with it there are more than {MAX_BYTES} bytes of weights")
        with path.open("rb") as file:
            file.seek(offset)
            tensor.raw_data = file.read(size)
    except (OSError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"weight {tensor.name}: {error}") from error
    if len(tensor.raw_data) < size:
        raise ModelError(f"weight {tensor.name}: {path.name} ends before it does")
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    return size


def _inside(folder: Path, location: str, name: str) -> Path:
    """The file, wherever links lead: a model's own folder may be a link, what leads out of it may not."""
    root = folder.resolve()
    path = (root / location).resolve()
    if not location or not path.is_relative_to(root):
        raise ModelError(f"weight {name}: its file {location!r} is not in the model's folder")
    return path

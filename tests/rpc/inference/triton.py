"""The stock client of the Open Inference Protocol, in a process of its own: see `triton_worker.py`."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv-triton" / "bin" / "python"
DATATYPES = {"int64": "INT64", "float32": "FP32"}


class Triton:
    """Calls the functions of the worker by name."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def __call__(self, name: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, arguments]) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "failure" not in answer, answer["failure"]
        return answer["result"]


@contextmanager
def triton_client(address: str) -> Iterator[Triton]:
    """A client of the server at this address until the block ends."""
    command = [str(PYTHON), str(Path(__file__).with_name("triton_worker.py")), address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Triton(process)
        finally:
            process.terminate()


def request(model: str, sequence_id: int | str = 0, **fields: Any) -> dict[str, Any]:
    """A request to the model: arrays by input name, options of the call, and `outputs`."""
    arrays = {name: fields.pop(name) for name, value in list(fields.items()) if isinstance(value, np.ndarray)}
    inputs = {name: {"datatype": DATATYPES[array.dtype.name], "data": array.tolist()} for name, array in arrays.items()}
    outputs = fields.pop("outputs", None)
    return {"model": model, "inputs": inputs, "outputs": outputs, "options": {"sequence_id": sequence_id, **fields}}

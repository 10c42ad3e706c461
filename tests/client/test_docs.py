"""The examples of docs/client.md run as they stand."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.serving import ServerProcess, serving

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def letters(models: Path) -> Iterator[ServerProcess]:
    with serving(models / "letters" / "1" / "model.onnx") as server:
        yield server


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_runs(example: str, letters: ServerProcess) -> None:
    """Each example prints something and ends well."""
    code = example.replace("localhost:50051", letters.address)

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout

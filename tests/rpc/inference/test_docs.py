"""The example of docs/open-inference.md runs as it stands."""

import re
import subprocess

import pytest

from tests.client.serving import serving
from tests.rpc.inference.triton import PYTHON, ROOT

PAGE = ROOT / "docs" / "open-inference.md"
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.skipif(not PYTHON.exists(), reason="tritonclient is not installed: `make install-dev` makes .venv-triton")
def test_the_example_runs() -> None:
    """It prints a line for each step, in the order of the requests."""
    with serving(ROOT / "models", "--store", "none") as server:
        code = EXAMPLE.replace("localhost:50051", server.address)
        done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    steps = [line.split(" expects ")[0] for line in done.stdout.splitlines()]
    assert steps == [f"sequence {sequence}, step {step}" for step in range(4) for sequence in (1, 2)]

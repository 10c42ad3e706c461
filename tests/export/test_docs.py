"""The documentation's example does what it says."""

import re
from pathlib import Path

import pytest

from conveyor.graph import read_model

DOCS = Path(__file__).parents[2] / "docs"


def test_export_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module of docs/export.md, as printed there, exports to a file that the server reads."""
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", (DOCS / "export.md").read_text(), re.DOTALL)
    exec(compile(example, "docs/export.md", "exec"), {})  # noqa: S102  # our own page

    signature = read_model(tmp_path / "models/tagger/1/model.onnx").signature
    assert signature.fixed_steps is None
    assert signature.state_bytes == 2 * 128 * 4

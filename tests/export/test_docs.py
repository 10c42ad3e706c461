"""The documentation's example does what it says."""

import re
from pathlib import Path

import pytest

from conveyor.graph import read_model
from conveyor_export import language_model
from conveyor_export.cells import registry

DOCS = Path(__file__).parents[2] / "docs"


def test_export_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module of docs/export.md, as printed there, exports to a file that the server reads."""
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", (DOCS / "export.md").read_text(), re.DOTALL)
    exec(compile(example, "docs/export.md", "exec"), {})  # noqa: S102  # our own page

    signature = read_model(tmp_path / "models/tagger/1/model.onnx").signature
    assert signature.fixed_steps is None
    assert signature.state_bytes == 2 * 128 * 4


def test_an_architecture_can_be_added_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file, the line and the check of docs/add-a-model.md, run in this order, add a row that holds."""
    rows = dict(registry.ROWS)
    monkeypatch.setattr(registry, "ROWS", rows)
    monkeypatch.setattr(language_model, "ROWS", rows)
    monkeypatch.setattr(language_model, "CELLS", (*language_model.CELLS, "indrnn"))
    names = {**vars(registry), "ROWS": rows, "folder": tmp_path}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / "add-a-model.md").read_text(), re.DOTALL):
        exec(compile(block, "docs/add-a-model.md", "exec"), names)  # noqa: S102  # our own page

    assert names["line"].name == "indrnn"

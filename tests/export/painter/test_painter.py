"""The demo that paints digits."""

import re
from pathlib import Path

import pytest

from conveyor_export.painter.command import main


def test_the_demo_paints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After two updates both forms are served, and give a bound and three pictures."""
    assert main(["--out", str(tmp_path), "--updates", "2"]) == 0

    said = capsys.readouterr().out
    assert re.search(r"bound on 297 digits that it never saw: -\d+\.\d\d nats each", said)
    assert {path.parents[1].name for path in tmp_path.rglob("model.onnx")} == {"paint", "look"}
    for name in ("strokes", "painted", "looked"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")

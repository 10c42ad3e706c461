"""The demo that paints digits."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from conveyor_export.painter import command


def test_the_demo_paints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """After two updates both forms are served, and give a bound and three pictures."""
    monkeypatch.setattr(command, "PLAN", replace(command.PLAN, num_updates=2))

    assert command.main(["--out", str(tmp_path)]) == 0

    said = capsys.readouterr().out
    assert re.search(r"bound on 297 digits that it never saw: -\d+\.\d\d nats each", said)
    assert {path.parents[1].name for path in tmp_path.rglob("model.onnx")} == {"paint", "look"}
    for name in ("strokes", "painted", "looked"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")

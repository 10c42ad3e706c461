"""The demo that paints digits."""

import asyncio
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from conveyor.server import start_server
from conveyor.settings import Settings
from conveyor_export.painter import command

PAGE = Path(__file__).parents[3] / "docs" / "generative.md"


async def run_example(models: Path) -> str:
    """What the page's own code prints of a server of these models."""
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    async with await start_server(Settings(models=models, port=0, metrics_port=0, store="none")) as server:
        code = example.replace("localhost:50051", server.address)
        done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_demo_paints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """After two updates both forms are served, and give a bound and three pictures; the page's example paints."""
    monkeypatch.setattr(command, "PLAN", replace(command.PLAN, num_updates=2))
    monkeypatch.setattr(command, "NUM_SEEDS", 2)

    assert command.main(["--out", str(tmp_path)]) == 0

    said = capsys.readouterr().out
    assert re.search(r"bound on 297 digits that it never saw: -\d+\.\d\d nats each", said)
    assert {path.parents[1].name for path in tmp_path.rglob("model.onnx")} == {"paint", "look"}
    for name in ("strokes", "painted", "looked"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    lines = asyncio.run(run_example(tmp_path / "models")).splitlines()
    assert [line.count(",") for line in lines[:12]] == [4] * 12
    assert [len(line) for line in lines[12:]] == [8] * 8

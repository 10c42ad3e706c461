"""The demo, on a small model with random weights."""

import json
import lzma
import subprocess
import sys
from pathlib import Path

import onnx

from tests.models import make_model

ROOT = Path(__file__).parents[2]


def write_character_model(path: Path) -> Path:
    """A model of the characters of the corpus."""
    symbols = ["\ufffd", *sorted(set(lzma.decompress((ROOT / "data" / "shakespeare.txt.xz").read_bytes()).decode()))]
    proto, _ = make_model(vocabulary_size=len(symbols))
    proto.metadata_props.add(key="conveyor.vocabulary", value=json.dumps(symbols))
    onnx.save(proto, path)
    return path


def test_the_demo_checks_itself(tmp_path: Path) -> None:
    """The demo shows every part, finds all of its checks right and leaves with 0."""
    command = [sys.executable, ROOT / "examples" / "demo.py", write_character_model(tmp_path / "model.onnx")]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert "All checks passed" in done.stdout
    assert done.stdout.count(" ok") == 6
    assert "FAILED" not in done.stdout


def test_the_demo_says_why_it_cannot_start(tmp_path: Path) -> None:
    """Without a model the demo leaves with the server's own words."""
    command = [sys.executable, ROOT / "examples" / "demo.py", tmp_path / "nothing"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "the server did not start" in done.stderr
    assert "Traceback" not in done.stderr

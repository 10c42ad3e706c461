"""The entry points of the commands, as an installation without all libraries runs them."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

SCRIPTS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]


def run(command: str, prologue: str = "pass") -> subprocess.CompletedProcess[str]:
    """Calls a command's entry point with `--help` in a process of its own, after the prologue."""
    module, function = SCRIPTS[command].split(":")
    code = f"import sys; {prologue}; from {module} import {function}; sys.exit({function}())"
    return subprocess.run([sys.executable, "-c", code, "--help"], check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("command", "library"),
    [
        ("conveyor-export", "torch"),
        ("conveyor-export", "onnxruntime"),
        ("conveyor-train", "torch"),
        ("conveyor-compare", "torch"),
    ],
)
def test_missing_library_is_one_line(command: str, library: str) -> None:
    """Where a library is not installed, the command names it and the extras that bring it, and exits with 1."""
    ended = run(command, f"sys.modules[{library!r}] = None")

    assert ended.returncode == 1
    assert ended.stderr == f"{command}: this command needs {library}: install conveyor-serve[cpu,export]\n"


@pytest.mark.parametrize("command", ["conveyor-compare", "conveyor-export", "conveyor-train"])
def test_entry_point_runs_its_command(command: str) -> None:
    """Each entry point leads to the command of its name."""
    ended = run(command)

    assert ended.returncode == 0
    assert ended.stdout.startswith(f"usage: {command} ")


def test_training_runs_as_a_module() -> None:
    """`python -m conveyor_export.train` is the command as well."""
    command = [sys.executable, "-m", "conveyor_export.train", "--help"]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)

    assert ended.stdout.startswith("usage: conveyor-train ")

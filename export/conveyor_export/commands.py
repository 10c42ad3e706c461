"""Where the commands start: each imports what it needs, and says in one line which library is missing."""

import sys
from importlib import import_module


def export() -> int:
    """Runs `conveyor-export`; returns its exit status."""
    return _run("conveyor-export", "conveyor_export.cli")


def train() -> int:
    """Runs `conveyor-train`; returns its exit status."""
    return _run("conveyor-train", "conveyor_export.train")


def compare() -> int:
    """Runs `conveyor-compare`; returns its exit status."""
    return _run("conveyor-compare", "conveyor_export.compare.cli")


def _run(command: str, module: str) -> int:
    try:
        main = import_module(module).main
    except ModuleNotFoundError as error:
        sys.stderr.write(f"{command}: this command needs {error.name}: install conveyor-serve[cpu,export]\n")
        return 1
    status: int = main()
    return status

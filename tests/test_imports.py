"""The imports run one way, and each heavy library is imported where it is meant to be."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "service" / "conveyor"

# What each part may import of the others, itself aside.
PARTS = {
    "errors": set(),
    "inference": set(),
    "v1": set(),
    "signature": set(),
    "graph": {"errors", "signature"},
    "store": {"errors"},
    "engine": {"errors", "signature", "graph", "store"},
    "repository": {"errors", "signature", "graph", "engine", "telemetry"},
    "telemetry": {"errors", "engine"},
    "rpc": {"errors", "signature", "engine", "repository", "telemetry", "inference", "v1"},
    "client": {"signature", "v1"},
    "settings": {"engine", "store"},
    "server": {"errors", "signature", "graph", "engine", "repository", "telemetry", "rpc", "settings", "v1"},
    "cli": {"errors", "signature", "graph", "engine", "repository", "client", "settings", "server", "telemetry", "v1"},
}
# Where a library may be imported; in no other part.
HOMES = {
    "grpc": {"inference", "v1", "client", "rpc", "server", "cli"},
    "onnxruntime": {"engine"},
    "onnx": {"graph", "engine", "repository", "cli"},
    "prometheus_client": {"telemetry"},
    "rich": {"cli"},
    "sqlite3": {"store"},
    "valkey": {"store"},
}
# In the engine, only these files know ONNX Runtime.
ORT_FILES = {"arena.py", "binding.py", "head_sessions.py", "ort.py"}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def sources() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if part_of(path) != "__init__"]


def imports_of(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, wherever in it; relative ones are not used in this package."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            # `from conveyor import x` names the module x.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    """A part imports only what lies below it."""
    part = part_of(path)
    used = {name.split(".")[1] for name in imports_of(path) if name.startswith("conveyor.")}

    assert used - {part, "__version__"} <= PARTS[part]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_libraries_stay_at_home(path: Path) -> None:
    """The engine knows no gRPC, and ONNX Runtime is known to the engine's runner and its files alone."""
    libraries = {name.split(".")[0] for name in imports_of(path)}

    assert not {library for library in libraries & HOMES.keys() if part_of(path) not in HOMES[library]}
    assert "onnxruntime" not in libraries or path.name in ORT_FILES


def test_every_part_is_listed() -> None:
    """A new part has to say what it may import."""
    assert {part_of(path) for path in sources()} <= PARTS.keys()


def test_the_client_needs_grpc_and_protobuf_alone() -> None:
    """Importing the SDK loads none of the server's libraries, not even through another module."""
    code = "import conveyor.client, sys; print(' '.join({name.split('.')[0] for name in sys.modules}))"

    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()

    assert not {"numpy", "onnx", "onnxruntime", "prometheus_client", "rich", "torch"} & set(loaded)

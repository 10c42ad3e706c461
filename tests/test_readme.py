"""What README.md says of the API, the settings, the metrics and the examples is so."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from bench.server import Server

from conveyor.settings import Settings
from conveyor.v1 import sequence_service_pb2

ROOT = Path(__file__).parents[1]
PAGES = sorted((*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "deploy" / "README.md"))
README = (ROOT / "README.md").read_text()


def table(heading: str) -> dict[str, list[str]]:
    """The cells of the table under a heading, by the first one without its backticks."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return {row[0].strip(" `"): [cell.strip() for cell in row[1:]] for row in rows}


def example(word: str) -> str:
    """The Python example that contains this word."""
    return next(code for code in re.findall(r"```python\n(.+?)```", README, re.DOTALL) if word in code)


def test_every_call_is_listed() -> None:
    """The table of the API has the service's calls, in their order."""
    service = sequence_service_pb2.DESCRIPTOR.services_by_name["SequenceService"]

    assert list(table("API")) == [method.name for method in service.methods]


def test_every_setting_is_listed_with_its_default() -> None:
    """The table of settings has every field of Settings, with the default that it has there."""
    rows = table("Settings")

    assert list(rows) == [field.name for field in fields(Settings)]
    for field in fields(Settings):
        assert rows[field.name][0].strip("`") == f"{getattr(Settings(), field.name)}", field.name


def test_the_export_example_writes_a_model(tmp_path: Path) -> None:
    """The example runs as it stands, in an empty folder."""
    subprocess.run([sys.executable, "-c", example("export_model")], check=True, cwd=tmp_path)

    assert (tmp_path / "models/tagger/1/model.onnx").exists()


def test_the_client_example_runs() -> None:
    """The example generates, scores and steps on a server of the shipped model."""
    with Server.conveyor(ROOT / "models") as server:
        code = example("connect(").replace("localhost:50051", server.address)
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert len(done.stdout) > 300
    assert re.search(r"^at 332 \[", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Each relative link of the documentation is the path of a file."""
    links = re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text())

    assert [link for link in links if not (page.parent / link).exists()] == []

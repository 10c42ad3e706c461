"""Dashboard and alerts name metrics that a running server has, and the alerts fire when they should."""

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.request import urlopen

import onnx
import pytest
import yaml

from conveyor.server import start_server
from conveyor.settings import Settings
from tests.models import make_model

DEPLOY = Path(__file__).parents[2] / "deploy"
README = Path(__file__).parents[2] / "README.md"
DASHBOARD = json.loads((DEPLOY / "grafana" / "conveyor.json").read_text())
RULES = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())
NAME = re.compile(r"\b(?:conveyor|process)_[a-z_]+")


@pytest.fixture
async def exposed(tmp_path: Path) -> dict[str, str]:
    """Kind of every metric that a server exposes, by the names that a query may use."""
    path = tmp_path / "small.onnx"
    onnx.save(make_model()[0], path)
    async with await start_server(Settings(models=path, port=0, metrics_port=0, store="none")) as server:
        text = await asyncio.to_thread(lambda: urlopen(f"http://{server.metrics_address}/metrics").read().decode())
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    return {name: kind for base, kind in kinds.items() for name in _series(base, kind)}


def _series(name: str, kind: str) -> list[str]:
    return [f"{name}_{part}" for part in ("bucket", "sum", "count")] if kind == "histogram" else [name]


def queries(panels: list[dict]) -> list[str]:
    """Every expression of the dashboard."""
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


async def test_the_dashboard_names_metrics_that_exist(exposed: dict[str, str]) -> None:
    """Every metric in a panel or a variable of the dashboard is one that a server exposes."""
    variables = [str(variable["query"]) for variable in DASHBOARD["templating"]["list"]]
    named = {name for text in queries(DASHBOARD["panels"]) + variables for name in NAME.findall(text)}

    assert len(named) > 20
    assert named <= exposed.keys()


async def test_the_alerts_name_metrics_that_exist(exposed: dict[str, str]) -> None:
    """Every metric in an alert is one that a server exposes, or Prometheus's own `up`."""
    named = {name for group in RULES["groups"] for rule in group["rules"] for name in NAME.findall(rule["expr"])}

    assert named
    assert named <= exposed.keys()


async def test_counters_alone_are_rated(exposed: dict[str, str]) -> None:
    """What `rate` and `increase` are taken of only ever grows."""
    rules = [rule["expr"] for group in RULES["groups"] for rule in group["rules"]]
    rated = re.findall(r"(?:rate|increase)\((\w+)", " ".join(queries(DASHBOARD["panels"]) + rules))

    assert {exposed[name] for name in rated} <= {"counter", "histogram"}


async def test_the_readme_lists_every_metric(exposed: dict[str, str]) -> None:
    """README's table has the server's own metrics, each with its kind, and no other."""
    section = README.read_text().split("\n## Metrics\n")[1].split("\n## ")[0]
    listed = dict(re.findall(r"^\| `(conveyor_\w+)` \| (\w+) \|", section, re.MULTILINE))

    assert listed == {name.removesuffix("_bucket"): kind for name, kind in exposed.items() if _is_listed(name)}


def _is_listed(name: str) -> bool:
    return name.startswith("conveyor_") and not name.endswith(("_sum", "_count"))


def test_no_two_panels_overlap() -> None:
    """Every panel of the dashboard has its own place on the grid of 24 columns."""
    cells = [
        (x, y)
        for grid in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]

    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


@pytest.mark.parametrize("command", ["check config prometheus.yml", "test rules rules_test.yml"])
def test_prometheus_accepts_its_files(command: str) -> None:
    """Promtool finds the scrape configuration valid, and every alert fires where its test says so."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool, which comes with Prometheus, is not installed")

    done = subprocess.run([promtool, *command.split()], cwd=DEPLOY / "prometheus", capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr

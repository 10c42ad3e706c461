"""Reads the manifests for the tests: file by file, and as kustomize renders them."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
OVERLAYS = ("base", "gpu", "valkey")
# Written for kustomize rather than for a cluster: the kustomizations, and the overlays' patches.
FILES = [path for path in sorted((KUBERNETES / "base").glob("*.yaml")) if path.name != "kustomization.yaml"]


def render(overlay: str) -> list[dict[str, Any]]:
    """Every object that `kubectl apply --kustomize` would send."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl, which renders the overlays, is not installed")
    command = [kubectl, "kustomize", str(KUBERNETES / overlay)]
    return list(yaml.safe_load_all(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def read(name: str) -> dict[str, Any]:
    """One object of the base."""
    return yaml.safe_load((KUBERNETES / "base" / name).read_text())


def container() -> dict[str, Any]:
    """The server's container in the base's Deployment."""
    return read("deployment.yaml")["spec"]["template"]["spec"]["containers"][0]


def secrets() -> dict[str, dict[str, str]]:
    """Name and key of the Secret that each variable of the overlay `valkey` comes from."""
    patch = yaml.safe_load((KUBERNETES / "valkey" / "deployment.yaml").read_text())
    variables = patch["spec"]["template"]["spec"]["containers"][0]["env"]
    return {variable["name"]: variable["valueFrom"]["secretKeyRef"] for variable in variables}


def settings(overlay: str = "base") -> dict[str, str]:
    """The environment that the manifests set, but for the Secret's."""
    lines = (KUBERNETES / "base" / "settings.env").read_text().splitlines()
    kustomization = yaml.safe_load((KUBERNETES / overlay / "kustomization.yaml").read_text())
    lines += [literal for generator in kustomization["configMapGenerator"] for literal in generator.get("literals", [])]
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))

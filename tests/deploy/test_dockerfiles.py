"""The Dockerfiles are lint-clean and their locked requirements satisfy the package's own."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
KINDS = ("cpu", "gpu")


def lock(kind: str) -> dict[str, str]:
    """Name and exact version of everything that an image installs."""
    lines = (ROOT / "deploy" / f"requirements-{kind}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def wanted(kind: str) -> list[Requirement]:
    """What pyproject.toml asks for with this extra and that of the shared store."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + extras["server"] + extras["valkey"] + extras[kind]
    return [requirement for requirement in map(Requirement, lines) if requirement.name != project["name"]]


def last_stage(kind: str) -> str:
    """The part of a Dockerfile that the image itself is made by."""
    return (ROOT / "deploy" / f"{kind}.Dockerfile").read_text().split("\nFROM ")[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_dockerfile_is_lint_clean(kind: str) -> None:
    """Hadolint finds nothing, with no rule switched off."""
    hadolint = Path(sys.executable).parent / "hadolint"

    done = subprocess.run([hadolint, ROOT / "deploy" / f"{kind}.Dockerfile"], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("kind", KINDS)
def test_the_lock_satisfies_the_package(kind: str) -> None:
    """Each dependency of the package is locked to a version that it accepts."""
    versions = lock(kind)

    for requirement in wanted(kind):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize("kind", KINDS)
def test_the_image_runs_the_server_without_root(kind: str) -> None:
    """The image ends as the unprivileged user whose id the manifests name, on an exec-form entry point."""
    last = last_stage(kind)

    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert 'ENTRYPOINT ["conveyor", "serve", "/models"]' in last


@pytest.mark.parametrize("kind", KINDS)
def test_the_image_keeps_its_state_on_a_volume(kind: str) -> None:
    """The state folder is a volume that the user may write to, whatever the root filesystem is."""
    last = last_stage(kind)

    assert re.search(r"install --directory --owner=conveyor .* /state$", last, re.MULTILINE)
    assert re.search(r"CONVEYOR_STATE_DIR=/state$", last, re.MULTILINE)
    assert re.search(r"^VOLUME /state$", last, re.MULTILINE)


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_is_copied_is_in_the_build_context(kind: str) -> None:
    """Every path that the Dockerfile copies exists and is let through by .dockerignore."""
    text = (ROOT / "deploy" / f"{kind}.Dockerfile").read_text()
    copied = [path for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE) for path in line.split()[:-1]]
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]

    for path in copied:
        assert (ROOT / path).exists(), path
        assert any(Path(path).match(pattern) for pattern in allowed), path

"""The manifests are valid, agree with the server's settings and give the container no more than it needs."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from conveyor.rpc.health import LIVENESS
from conveyor.server import GRACE_SECONDS
from conveyor.settings import Settings

from .manifests import FILES, OVERLAYS, container, read, render, settings

VERSIONS = ("1.32", kubernetes_validate.latest_version())
# Kinds that the Prometheus operator defines; Kubernetes has no schema of them.
OPERATOR_KINDS = {"ServiceMonitor"}


def validate(objects: list[dict[str, Any]]) -> None:
    for each in objects:
        if each["kind"] not in OPERATOR_KINDS:
            for version in VERSIONS:
                kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_file_is_valid(path: Path) -> None:
    """Every object of the base passes Kubernetes's own schemas, unknown fields refused."""
    validate([read(path.name)])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_overlay_renders_to_valid_objects(overlay: str) -> None:
    """What kustomize makes of the base and of each overlay is valid and complete."""
    objects = render(overlay)

    validate(objects)
    assert {each["kind"] for each in objects} == {
        "ConfigMap",
        "Deployment",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
        "ServiceMonitor",
    }


def test_a_misspelt_field_is_refused() -> None:
    """The schemas are strict: the checks above can fail."""
    deployment = read("deployment.yaml")
    deployment["spec"]["template"]["spec"]["terminationGracePeriodSecond"] = 1

    with pytest.raises(kubernetes_validate.ValidationError):
        validate([deployment])


def test_the_service_monitor_scrapes_the_service() -> None:
    """The ServiceMonitor selects the Service by its labels and names one of its ports."""
    monitor, service = read("service_monitor.yaml")["spec"], read("service.yaml")

    assert set(monitor) <= {"selector", "endpoints"}
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert {endpoint["port"] for endpoint in monitor["endpoints"]} <= {
        port["name"] for port in service["spec"]["ports"]
    }


def test_every_selector_matches_the_pods() -> None:
    """Service, budget, policy and Deployment all select the Deployment's pods."""
    labels = read("deployment.yaml")["spec"]["template"]["metadata"]["labels"]

    assert read("service.yaml")["spec"]["selector"].items() <= labels.items()
    assert read("network_policy.yaml")["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    for name in ("deployment.yaml", "disruption_budget.yaml"):
        assert read(name)["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_the_grace_period_covers_sleep_and_drain() -> None:
    """A pod is not killed before preStop's sleep and the server's own drain are over."""
    pod = read("deployment.yaml")["spec"]["template"]["spec"]
    sleep = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = float(settings().get("CONVEYOR_DRAIN_TIMEOUT", Settings().drain_timeout))

    assert pod["terminationGracePeriodSeconds"] > sleep + drain + GRACE_SECONDS


def test_the_ports_are_the_servers_defaults() -> None:
    """Container, Service and probes use the ports that the server listens on."""
    ports = {"grpc": Settings().port, "metrics": Settings().metrics_port}

    assert {port["name"]: port["containerPort"] for port in container()["ports"]} == ports
    assert {port["name"]: port["port"] for port in read("service.yaml")["spec"]["ports"]} == ports
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container()[probe]["grpc"]["port"] == ports["grpc"]


def test_only_liveness_outlasts_a_drain() -> None:
    """The liveness probe asks for the health name that draining leaves alone; readiness asks for the server's own."""
    assert container()["livenessProbe"]["grpc"]["service"] == LIVENESS
    assert "service" not in container()["readinessProbe"]["grpc"]


def test_every_variable_is_a_setting() -> None:
    """The manifests set only what the server reads, to values that it takes."""
    names = {f"CONVEYOR_{field.name.upper()}" for field in fields(Settings)}

    assert settings().keys() <= names


def test_the_container_is_confined() -> None:
    """Not root, no privilege to gain, no capability, and nothing to write to but /tmp."""
    pod = read("deployment.yaml")["spec"]["template"]["spec"]
    context = container()["securityContext"]

    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["automountServiceAccountToken"] is False
    assert context == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [mount["mountPath"] for mount in container()["volumeMounts"]] == ["/tmp"]  # noqa: S108

"""The manifests are valid, agree with the server's settings and give the container no more than it needs."""

import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from conveyor.rpc.health import LIVENESS, STORE
from conveyor.server import GRACE_SECONDS
from conveyor.settings import Settings, load

from .manifests import FILES, KUBERNETES, OVERLAYS, container, read, render, secrets, settings

DEPLOY = KUBERNETES.parent
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

    # Once for the streams, once for the store.
    assert pod["terminationGracePeriodSeconds"] > sleep + drain + 2 * GRACE_SECONDS


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


def test_no_probe_asks_for_the_store() -> None:
    """A store that is gone takes no replica out of service and restarts none."""
    probes = [container()[f"{kind}Probe"]["grpc"] for kind in ("startup", "readiness", "liveness")]

    assert STORE not in {probe.get("service") for probe in probes}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_settings_are_taken(overlay: str) -> None:
    """The server takes what the manifests set, all of it together, with the address of the README's Secret."""
    (url,) = re.findall(r"--from-literal=url=(\S+)", (DEPLOY / "README.md").read_text())
    secret = dict.fromkeys(secrets(), url) if overlay == "valkey" else {}

    load(Namespace(config=None), settings(overlay) | secret)


def test_the_state_folder_is_a_volume_of_the_pod() -> None:
    """What the server keeps is outside the container, and so outlives its crash."""
    mounts = {mount["mountPath"]: mount["name"] for mount in container()["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in read("deployment.yaml")["spec"]["template"]["spec"]["volumes"]}

    assert "emptyDir" in volumes[mounts[settings()["CONVEYOR_STATE_DIR"]]]


def test_the_readme_makes_the_secret() -> None:
    """The Secret that the overlay of Valkey reads is made by the command in README, key by key."""
    text = (DEPLOY / "README.md").read_text()

    for secret in secrets().values():
        assert f"kubectl create secret generic {secret['name']} " in text
        assert f"--from-literal={secret['key']}=" in text


def test_the_server_reaches_valkey_and_nobody_else() -> None:
    """The base lets the server call nobody; the overlay of Valkey lets it call that and the cluster's DNS."""
    (policy,) = (each for each in render("valkey") if each["kind"] == "NetworkPolicy")
    ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}

    assert read("network_policy.yaml")["spec"]["egress"] == []
    assert ports == {53, 6379}
    assert policy["spec"]["ingress"] == read("network_policy.yaml")["spec"]["ingress"]


def test_the_container_is_confined() -> None:
    """Not root, no privilege to gain, no capability, and nothing to write to but /tmp and its state."""
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
    assert [mount["mountPath"] for mount in container()["volumeMounts"]] == ["/tmp", "/state"]  # noqa: S108

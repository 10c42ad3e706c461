"""Envoy, the proxy before the replicas."""

import json
import sys
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import yaml
from deploy.local.process import Process
from deploy.local.replica import Replica

CONFIG = Path(__file__).with_name("envoy.yaml")
# Envoy's own hot restart wants shared memory that two Envoys of one machine would quarrel over.
FLAGS = ("--disable-hot-restart", "--concurrency", "1")
_ADMIN_SECONDS = 2.0


class Envoy(Process):
    """Envoy with the configuration of `envoy.yaml`, for these replicas and ports."""

    def __init__(self, folder: Path, port: int, admin_port: int, replicas: Sequence[Replica]) -> None:
        config = folder / "envoy.yaml"
        config.write_text(yaml.safe_dump(config_for(port, admin_port, {each.name: each.port for each in replicas})))
        command = [str(Path(sys.executable).with_name("envoy")), "--config-path", str(config), *FLAGS]
        super().__init__("envoy", command, folder, ready="starting workers")
        self.address = f"127.0.0.1:{port}"
        self.admin_address = f"127.0.0.1:{admin_port}"

    def num_healthy(self) -> int:
        """Number of replicas that pass their health checks; 0 while Envoy doesn't answer."""
        try:
            with urlopen(f"http://{self.admin_address}/clusters?format=json", timeout=_ADMIN_SECONDS) as response:
                clusters = json.load(response)["cluster_statuses"]
        except (URLError, OSError):
            return 0
        hosts = [host for cluster in clusters for host in cluster["host_statuses"]]
        return sum(not any(key.startswith("failed_") for key in host["health_status"]) for host in hosts)


def config_for(port: int, admin_port: int, replicas: dict[str, int]) -> dict[str, Any]:
    """The contents of `envoy.yaml` with other ports. `replicas` are ports by name."""
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    resources = config["static_resources"]
    _set_port(config["admin"], admin_port)
    _set_port(resources["listeners"][0], port)
    group = resources["clusters"][0]["load_assignment"]["endpoints"][0]
    group["lb_endpoints"] = [_endpoint(group["lb_endpoints"][0], *replica) for replica in replicas.items()]
    return config


def _endpoint(pattern: dict[str, Any], name: str, port: int) -> dict[str, Any]:
    made = deepcopy(pattern)
    _set_port(made["endpoint"], port)
    made["metadata"]["filter_metadata"]["envoy.lb"]["hash_key"] = name
    return made


def _set_port(place: dict[str, Any], port: int) -> None:
    place["address"]["socket_address"]["port_value"] = port

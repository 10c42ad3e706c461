"""The layout of one machine: Envoy takes its configuration, all of it starts, answers, and ends without a trace."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import grpc
import psutil
import pytest
import yaml
from deploy.local.envoy import CONFIG, config_for
from deploy.local.layout import MODELS, Layout
from deploy.local.process import Process
from grpc_health.v1 import health_pb2, health_pb2_grpc

from conveyor.client import connect_sync

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    with Layout(tmp_path_factory.mktemp("layout"), num_replicas=2) as layout:
        yield layout


def validate(config: Path) -> subprocess.CompletedProcess[str]:
    """Envoy's own check of a configuration."""
    command = [Path(sys.executable).with_name("envoy"), "--mode", "validate", "--config-path", config]
    return subprocess.run(command, capture_output=True, text=True)


def test_envoy_takes_the_configuration_as_it_stands() -> None:
    """The file in the repository is a whole configuration."""
    done = validate(CONFIG)

    assert done.returncode == 0, done.stderr


def test_envoy_refuses_a_misspelt_field(tmp_path: Path) -> None:
    """The check above can fail."""
    path = tmp_path / "envoy.yaml"
    path.write_text(CONFIG.read_text().replace("hash_policy", "hash_police"))

    assert "hash_police" in validate(path).stderr


def test_ports_and_replicas_are_put_in() -> None:
    """Other ports and another number of replicas change nothing else; each replica is hashed by its name."""
    config = config_for(port=1, admin_port=2, replicas={"a": 3, "b": 4})

    text = yaml.safe_dump(config)
    assert re.findall(r"port_value: (\d+)", text) == ["2", "3", "4", "1"]
    assert re.findall(r"hash_key: (\w+)", text) == ["a", "b"]
    assert text.count("\n") > 0.8 * yaml.safe_dump(yaml.safe_load(CONFIG.read_text())).count("\n")


def test_a_session_answers_through_envoy(layout: Layout) -> None:
    """A client that knows Envoy alone opens a session, steps and generates."""
    with connect_sync(layout.envoy.address) as client, client.open("shakespeare") as session:
        assert session.step("Hello").position == 5
        assert len(list(session.generate(" ", max_tokens=5))) == 5


def test_one_shard_goes_to_one_replica(layout: Layout) -> None:
    """Calls of one header's value meet the same replica each time; without the header they meet both."""
    with_header = [meet(layout, [("x-conveyor-shard", "7")]) for _ in range(6)]
    without = [meet(layout, []) for _ in range(24)]

    assert sorted(map(sum, zip(*with_header, strict=True))) == [0, 6]
    assert min(map(sum, zip(*without, strict=True))) > 0


def meet(layout: Layout, metadata: list[tuple[str, str]]) -> list[int]:
    """Calls once through Envoy; which replica answered, as Envoy counts."""
    before = requests(layout)
    with grpc.insecure_channel(layout.envoy.address) as channel:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), metadata=metadata)
    return [now - then for now, then in zip(requests(layout), before, strict=True)]


def requests(layout: Layout) -> list[int]:
    """Requests that Envoy has sent to each replica, health checks aside."""
    page = urlopen(f"http://{layout.envoy.admin_address}/clusters").read().decode()
    counts = dict(re.findall(r"replicas::127\.0\.0\.1:(\d+)::rq_total::(\d+)", page))
    return [int(counts[str(replica.port)]) for replica in layout.replicas]


def test_a_killed_replica_is_left_out_until_it_is_back(layout: Layout) -> None:
    """Envoy notices both by its health checks; the replica comes back on its own port."""
    replica = layout.replicas[0]

    assert replica.kill() == -signal.SIGKILL
    while layout.envoy.num_healthy() == 2:
        pass
    replica.start()
    replica.wait_ready()
    layout.wait_healthy()

    assert layout.envoy.num_healthy() == 2


def test_a_replica_that_has_ended_is_not_waited_for(layout: Layout) -> None:
    """What ended by itself is told by its name, and not when the time is over."""
    replica = layout.replicas[0]
    replica.kill()
    while layout.envoy.num_healthy() == 2:
        pass

    with pytest.raises(RuntimeError, match="replica-0 ended by itself"):
        layout.wait_healthy()
    replica.start()
    replica.wait_ready()
    layout.wait_healthy()


def test_a_replica_stops_in_order_even_if_it_is_paused(layout: Layout) -> None:
    """Stopping lets a paused process go on first, which then ends with status 0."""
    replica = layout.replicas[1]
    replica.pause()

    assert replica.stop() == 0
    replica.start()
    replica.wait_ready()


def test_a_launch_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    """If the replicas cannot start, the failure has what they said, and Valkey is ended."""
    layout = Layout(tmp_path, num_replicas=1, models=tmp_path / "nowhere")

    with pytest.raises(RuntimeError, match=r"replica-0 has ended.*\n.*nowhere"), layout:
        pass
    assert layout.valkey.pid
    assert not psutil.pid_exists(layout.valkey.pid)


def test_a_process_that_is_late_is_told(tmp_path: Path) -> None:
    """Waiting ends after so many seconds with what the process has printed."""
    process = Process("slow", [sys.executable, "-uc", "print('soon'); input()"], tmp_path, ready="never")
    process.start()

    with pytest.raises(RuntimeError, match="slow"):
        process.wait_ready(0.1)
    process.kill()


def test_ctrl_c_ends_all_processes(tmp_path: Path) -> None:
    """The launcher prints addresses and ids, and none of the processes outlives its Ctrl-C."""
    command = [sys.executable, "-m", "deploy.local", str(MODELS), "--port", "0", "--folder", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        printed = "".join(process.stdout.readline() for _ in range(4))
        pids = [int(pid) for pid in re.findall(r"pid (\d+)", printed)]
        assert len(pids) == 4, printed
        assert all(map(psutil.pid_exists, pids))
        os.kill(process.pid, signal.SIGINT)

    assert process.returncode == 0
    assert not any(map(psutil.pid_exists, pids))

"""One replica of the server."""

import re
import sys
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from deploy.local.process import Process

DRAIN_SECONDS = 10
_METRICS_SECONDS = 2.0


class Replica(Process):
    """`conveyor serve` on one thread, with its checkpoints in `store`. `name` is what Envoy knows it by."""

    def __init__(self, name: str, folder: Path, models: Path, store: str, ports: tuple[int, int]) -> None:
        port, metrics_port = ports
        options = {
            "port": str(port),
            "metrics-port": str(metrics_port),
            "store": store,
            "seal-key": "local",  # the same for all, so that each takes what another has exported
            "num-threads": "1",
            "drain-timeout": str(DRAIN_SECONDS),
        }
        command = [str(Path(sys.executable).with_name("conveyor")), "serve", str(models)]
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        super().__init__(name, command + flags, folder, ready="metrics on")
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self.metrics_address = f"127.0.0.1:{metrics_port}"

    def counter(self, name: str) -> float:
        """Sum of a metric over its labels; 0 while the replica doesn't answer."""
        try:
            with urlopen(f"http://{self.metrics_address}/metrics", timeout=_METRICS_SECONDS) as response:
                text = response.read().decode()
        except (URLError, OSError):
            return 0.0
        return sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)))

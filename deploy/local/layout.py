"""The whole layout, from the store to the proxy."""

import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.local.envoy import Envoy
from deploy.local.ports import free_ports
from deploy.local.replica import Replica
from deploy.local.valkey import KEPT, Valkey

MODELS = Path(__file__).parents[2] / "models"
_HEALTHY_SECONDS = 30.0
_POLL_SECONDS = 0.05


class Layout:
    """Valkey, replicas and Envoy on loopback. `with` starts them, and ends them the other way round.

    Logs and Valkey's data are in `folder`. `port` is Envoy's; 0 picks a free one.
    """

    def __init__(self, folder: Path, num_replicas: int, port: int = 0, models: Path = MODELS) -> None:
        valkey_port, admin_port, own_port, *ports = free_ports(3 + 2 * num_replicas)
        self.valkey = Valkey(folder, valkey_port, *KEPT)
        self.replicas = [
            Replica(f"replica-{number}", folder, models, self.valkey.url, pair)
            for number, pair in enumerate(zip(ports[::2], ports[1::2], strict=True))
        ]
        self.envoy = Envoy(folder, port or own_port, admin_port, self.replicas)
        self._stack = ExitStack()

    def wait_healthy(self, seconds: float = _HEALTHY_SECONDS) -> None:
        """Waits until Envoy sends requests to every replica.

        Raises:
            RuntimeError: a replica has ended, or fails its health checks for as long as that.
        """
        deadline = time.monotonic() + seconds
        while (num_healthy := self.envoy.num_healthy()) < len(self.replicas):
            if ended := [replica.name for replica in self.replicas if not replica.is_running]:
                raise RuntimeError(f"{', '.join(ended)} ended by itself")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{num_healthy} of {len(self.replicas)} replicas are healthy after {seconds:g} s")
            time.sleep(_POLL_SECONDS)

    def __enter__(self) -> Self:
        with self._stack:  # ends what has been started if the rest doesn't start
            for tier in ([self.valkey], self.replicas, [self.envoy]):
                for process in tier:
                    self._stack.callback(process.stop)
                    process.start()
                for process in tier:
                    process.wait_ready()
            self.wait_healthy()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

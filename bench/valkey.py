"""A Valkey server on loopback, for the sessions of a benchmark."""

import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.local.process import Process
from deploy.local.valkey import find_valkey


class Valkey(Process):
    """A server on a free port. It keeps nothing on disk unless `options`, as on its command line, say so."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        fixed = ("--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", "")
        super().__init__("valkey", [find_valkey(), *fixed, *options], folder, ready="Ready to accept connections")
        self.url = f"valkey://127.0.0.1:{port}"

    def __enter__(self) -> Self:
        self.start()
        self.wait_ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

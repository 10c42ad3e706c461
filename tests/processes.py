"""What the system knows of the processes that tests start."""

from contextlib import suppress
from pathlib import Path


def trials_of(pid: int) -> set[int]:
    """The trials of model files that a process has started, and that go on."""
    children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return {child for child in children if b"conveyor.engine.trial" in _command(child)}


def are_gone(pids: set[int]) -> bool:
    """True once their parent has taken leave of all of them."""
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def _command(pid: int) -> bytes:
    with suppress(OSError):  # it has ended meanwhile
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""

"""What the system knows of the processes that tests start."""

from pathlib import Path


def children_of(pid: int) -> set[int]:
    """The processes that a process has started and not yet taken leave of."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return set(map(int, text.split()))

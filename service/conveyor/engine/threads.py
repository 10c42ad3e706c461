"""How many threads ONNX Runtime may use: what affinity and the container's CPU quota allow, less one for messages."""

import os
from pathlib import Path

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available_cores(quota_file: Path = CGROUP_QUOTA) -> int:
    """Whole cores that this process may use; at least 1. ONNX Runtime itself looks at neither limit."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = quota_file.read_text().split()
        return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores


def run_threads(num_threads: int) -> int:
    """The setting, or where it is 0 all available cores but one, which is left to the handling of messages."""
    return num_threads or max(1, available_cores() - 1)

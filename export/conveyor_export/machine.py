"""What a measurement was made on."""

import platform
from pathlib import Path


def cpu_name() -> str:
    """The processor, as the kernel calls it; where that is not told, its kind."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())

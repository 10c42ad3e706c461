"""What a session costs in memory: in the arena, and spilled beyond it."""

import asyncio
import gc
import multiprocessing
import os
from pathlib import Path

from bench.engine import InProcess
from conveyor.engine.limits import Limits

NUM_SESSIONS = 4000
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def measure_memory(model: Path) -> dict[str, float]:
    """Bytes of a resident and of a spilled session, each measured in a process of its own."""
    cases = {"in the arena": 2 * NUM_SESSIONS, "spilled to host memory": 2 * Limits().max_batch}
    processes = multiprocessing.get_context("spawn")
    with processes.Pool(1, maxtasksperchild=1) as pool:
        return {where: pool.apply(bytes_per_session, (model, num_slots)) for where, num_slots in cases.items()}


def bytes_per_session(model: Path, num_slots: int) -> float:
    """Growth of this process for each session that has been stepped; call it in a process of its own."""
    return asyncio.run(_bytes_per_session(model, num_slots))


async def _bytes_per_session(model: Path, num_slots: int) -> float:
    engine = InProcess(model, Limits(num_slots=num_slots))
    await engine.start()
    # The first sessions also pay for what all share.
    await engine.measure(NUM_SESSIONS, 0.5)
    before = _resident_bytes()
    await engine.measure(2 * NUM_SESSIONS, 0.5)
    return (_resident_bytes() - before) / NUM_SESSIONS


def _resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES

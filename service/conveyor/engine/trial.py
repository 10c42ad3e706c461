"""Loads and runs a file in a process of its own, within bounds, before the server does.

A file may make its readers crash, take all memory or never end; then it is this process that dies of it. What the file
says of its origin counts for nothing: anybody can write that.
"""

import asyncio
import json
import os
import resource
import signal
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from subprocess import PIPE, Popen

from conveyor.engine.agreement import NUM_ROWS, Agreement
from conveyor.engine.initialiser import Initialiser
from conveyor.engine.limits import Device
from conveyor.engine.runner import Runner
from conveyor.graph.errors import ModelError
from conveyor.graph.model_file import ModelFile, read_model


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a trial may take: bytes of address space, seconds. `max_batch` sessions make a step in it."""

    num_bytes: int = 8 << 30
    seconds: int = 120
    max_batch: int = 256


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a trial has found: which model it was, and, if its sessions cannot run together, why."""

    fingerprint: str
    alone_because: str = ""


async def try_file(path: Path, bounds: Bounds) -> Verdict:
    """Tries a file. Whoever does not wait for the end ends the trial.

    Raises:
        ModelError: it cannot be served; the message starts with its path.
    """
    order = json.dumps({"path": str(path), "bounds": asdict(bounds)}).encode()
    command = (sys.executable, "-P", "-m", "conveyor.engine.trial")
    # Each thread of a numerical library reserves address space, which would count.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    process = Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment)  # noqa: ASYNC220, S603
    try:
        # Shielded: the thread takes leave of the process, even if its turn comes when nobody asks any more.
        said, complaints = await asyncio.shield(asyncio.to_thread(process.communicate, order))
    finally:
        process.kill()
    if not said:
        raise ModelError(f"{path}: {_fate(process.returncode, complaints, bounds)}")
    found = json.loads(said.splitlines()[-1])  # whatever else the libraries had to say
    if "error" in found:
        raise ModelError(found["error"])
    return Verdict(**found)


def _fate(status: int, complaints: bytes, bounds: Bounds) -> str:
    if status == -signal.SIGALRM:
        return f"did not load and make a step within {bounds.seconds} s, its trial_seconds"
    if status < 0:
        return f"its trial ended with {signal.Signals(-status).name}"
    said = complaints.decode(errors="replace").strip().splitlines() or [f"status {status}"]
    return f"its trial failed: {said[-1]}"


def main() -> None:
    """The trial's process: an order on stdin, a verdict on stdout."""
    order = json.loads(sys.stdin.read())
    path, bounds = Path(order["path"]), Bounds(**order["bounds"])
    resource.setrlimit(resource.RLIMIT_AS, (bounds.num_bytes, bounds.num_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # where memory is short all the same, this process is the one to go
        Path("/proc/self/oom_score_adj").write_text("1000")
    signal.alarm(bounds.seconds)  # its default is to end the process, whatever that is doing
    print(json.dumps(_found(path, bounds)))  # noqa: T201 - its output


def _found(path: Path, bounds: Bounds) -> dict[str, str]:
    try:
        return asdict(_verdict(path, bounds))
    except MemoryError:
        return {"error": f"{path}: it takes more than {bounds.num_bytes} bytes of memory, its trial_bytes"}
    except ModelError as error:
        message = str(error)
        return {"error": message if message.startswith(str(path)) else f"{path}: {message}"}


def _verdict(path: Path, bounds: Bounds) -> Verdict:
    model = read_model(path)
    runner = _run_once(model, bounds)
    if model.source != "metadata":  # conveyor-export has compared these, and knows how far rounding may go
        agreement = Agreement(runner, model.signature)
        agreement.check_steps()
        model = replace(model, alone_because=agreement.alone_because())
    if model.alone_because:
        runner = _run_once(model, bounds)
    runner.warm_up(bounds.max_batch if runner.graph.can_batch else 1)
    return Verdict(model.fingerprint, model.alone_because)


def _run_once(model: ModelFile, bounds: Bounds) -> Runner:
    num_rows = max(bounds.max_batch + 1, NUM_ROWS)
    runner = Runner(model, num_rows, Device("cpu", num_threads=1), max_batch=bounds.max_batch)
    runner.warm_up(1)
    Initialiser(runner.graph).warm_up()
    return runner


if __name__ == "__main__":
    main()

"""Loads and runs files that nobody vouches for in a process of its own, within bounds, before the server does.

A file may make its readers crash, take all memory or never end; then it is this process that dies of it.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from conveyor.engine.agreement import NUM_ROWS, Agreement
from conveyor.engine.initialiser import Initialiser
from conveyor.engine.limits import Device
from conveyor.engine.runner import Runner
from conveyor.graph.errors import ModelError
from conveyor.graph.model_file import is_exported, read_model


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a trial may take: bytes of address space, seconds for each file. `max_batch` sessions make a step in it."""

    num_bytes: int
    seconds: int
    max_batch: int


def try_foreign(paths: Sequence[Path], bounds: Bounds) -> dict[Path, str]:
    """Tries those files that conveyor-export has not written; returns their fingerprints.

    Raises:
        ModelError: one cannot be served; the message starts with its path.
    """
    foreign = [path for path in paths if not is_exported(path)]
    return _try(foreign, bounds) if foreign else {}


def _try(paths: Sequence[Path], bounds: Bounds) -> dict[Path, str]:
    order = json.dumps({"paths": list(map(str, paths)), "bounds": asdict(bounds)})
    command = [sys.executable, "-P", "-m", "conveyor.engine.trial"]
    # Each thread of a numerical library reserves address space, which would count.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, input=order, capture_output=True, text=True, env=environment, check=False)  # noqa: S603
    verdicts = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if verdicts and "error" in verdicts[-1]:
        raise ModelError(verdicts[-1]["error"])
    found = {Path(verdict["path"]): verdict["fingerprint"] for verdict in verdicts}
    if len(found) < len(paths):
        raise ModelError(f"{paths[len(found)]}: {_fate(done, bounds)}")
    return found


def _fate(done: "subprocess.CompletedProcess[str]", bounds: Bounds) -> str:
    if done.returncode == -signal.SIGALRM:
        return f"did not load and make a step within {bounds.seconds} s"
    if done.returncode < 0:
        return f"its trial ended with {signal.Signals(-done.returncode).name}"
    said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
    return f"its trial failed: {said[-1]}"


def main() -> None:
    """The trial's process: an order on stdin, a line of JSON on stdout for each file, up to the first bad one."""
    order = json.loads(sys.stdin.read())
    bounds = Bounds(**order["bounds"])
    resource.setrlimit(resource.RLIMIT_AS, (bounds.num_bytes, bounds.num_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # where memory is short all the same, this process is the one to go
        Path("/proc/self/oom_score_adj").write_text("1000")
    for path in order["paths"]:
        signal.alarm(bounds.seconds)  # its default is to end the process, whatever that is doing
        verdict = _verdict(Path(path), bounds)
        print(json.dumps({"path": path, **verdict}), flush=True)  # noqa: T201 - its output
        if "error" in verdict:
            return


def _verdict(path: Path, bounds: Bounds) -> dict[str, str]:
    try:
        return {"fingerprint": _fingerprint(path, bounds)}
    except MemoryError:
        return {"error": f"{path}: it takes more than {bounds.num_bytes} bytes of memory"}
    except ModelError as error:
        message = str(error)
        return {"error": message if message.startswith(str(path)) else f"{path}: {message}"}


def _fingerprint(path: Path, bounds: Bounds) -> str:
    model = read_model(path)
    num_rows = max(bounds.max_batch + 1, NUM_ROWS)
    runner = Runner(model, num_rows, Device("cpu", num_threads=1), max_batch=bounds.max_batch)
    runner.warm_up(1)
    Initialiser(runner.graph).warm_up()
    Agreement(runner, model.signature).check()
    runner.warm_up(bounds.max_batch if runner.graph.can_batch else 1)
    return model.fingerprint


if __name__ == "__main__":
    main()

"""`make chaos`: a load over Envoy while everything behind and before it is killed, paused and restarted."""

import argparse
import random
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from deploy.local.layout import MODELS, Layout

from chaos.crowd import Plan
from chaos.load import Load
from chaos.report import Report
from chaos.tally import Tally
from chaos.tormentor import Tormentor

NUM_LOADS = 2
MODEL = "shakespeare/1/model.onnx"


def main() -> int:
    """Runs, prints the report and returns 0 if nothing was lost, doubled or wrong, else 1."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="repeats a run's order of events")  # noqa: S311
    parser.add_argument("--seconds", type=float, default=120.0, help="how long it goes on (default: %(default)s)")
    parser.add_argument("--sessions", type=int, default=240, help="sessions at once (default: %(default)s)")
    parser.add_argument("--replicas", type=int, default=2, help="number of replicas (default: %(default)s)")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # which ends all processes
    print(f"seed {args.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="conveyor-"))
    report = torment(folder, args.seed, args.seconds, args.sessions, args.replicas)
    print(report)
    if any(report.zeros.values()):
        print(f"logs are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def torment(folder: Path, seed: int, seconds: float, num_sessions: int, num_replicas: int) -> Report:
    """One run, with logs in the folder."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated
    with Layout(folder, num_replicas) as layout, ExitStack() as stack:
        replicas = {each.name: each.address for each in layout.replicas}
        plans = [
            Plan(layout.envoy.address, replicas, MODELS / MODEL, num_sessions // NUM_LOADS, chance.getrandbits(64))
            for _ in range(NUM_LOADS)
        ]
        loads = [stack.enter_context(Load(plan)) for plan in plans]
        tormentor = Tormentor(layout, loads, chance)
        tormentor.run(seconds)
        tally = Tally()
        for load in loads:
            tally += load.finish()
        tormentor.count()
        return Report(tally, tormentor, [replica.log for replica in layout.replicas])


if __name__ == "__main__":
    sys.exit(main())

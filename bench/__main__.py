"""`make bench`: measures everything in rounds, prints the tables and writes `RESULTS.md`. Takes about five minutes."""

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

from bench.bare import Bare, PacedBare
from bench.coalesced import Coalesced
from bench.echo import EchoServer
from bench.engine import InProcess
from bench.memory import measure_memory
from bench.model import write_model
from bench.report import RESULTS, make_report
from bench.rows import ROWS, Round
from bench.server import Server
from bench.streams import ConveyorStreams, EchoStreams
from bench.worker import Worker

SECONDS = 1.5  # of each measurement: short, so that a slow moment of the machine falls on all that is compared


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="rounds of 35 seconds (default: %(default)s)")
    num_rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder))
        rounds = measure_rounds(model, num_rounds)
        report = make_report(rounds, measure_memory(model))
    print(report)
    RESULTS.write_text(report)


def measure_rounds(model: Path, num_rounds: int, seconds: float = SECONDS) -> list[Round]:
    """Starts every part in its own process and measures all rows, round after round."""
    with ExitStack() as stack:
        server = stack.enter_context(Server.conveyor(model))
        least = stack.enter_context(Server.least(model))
        echo = stack.enter_context(Worker(EchoServer))
        parts = {
            "bare": Worker(Bare, model),
            "paced": Worker(PacedBare, model),
            "engine": Worker(InProcess, model),
            "sdk": Worker(Coalesced, server.address),
            "streams": Worker(ConveyorStreams, server.address),
            "least": Worker(ConveyorStreams, least.address),
            "echo": Worker(EchoStreams, echo.started),
        }
        for worker in parts.values():
            stack.enter_context(worker)
        rounds = tqdm(range(num_rounds), desc="rounds", disable=None)
        return [{row: parts[row.part].measure(row.count, seconds) for row in ROWS} for _ in rounds]


if __name__ == "__main__":
    main()

"""`python -m bench.durability`: what it costs to store sessions, and what it gives. Writes `DURABILITY.md`.

Takes about a quarter of an hour, and 2 GB of disk.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

from tqdm import tqdm

from bench.durability_report import REPORT, Results, make_report
from bench.memory import measure_memory
from bench.model import write_model
from bench.outage import Outage, measure_outage
from bench.restart import Start, files_in, fill, measure_start
from bench.stores import measure_stores

OUTAGES = [(mode, num_sessions) for mode in ("async", "sync") for num_sessions in (1, 256)]
NUM_STORED = 100_000
STORE_TURNS = 4  # in place of each round: one second differs from the next more than the stores do


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(prog="python -m bench.durability", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="turns of everything (default: %(default)s)")
    num_rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = write_model(folder / "models")
        results = Results(
            measure_stores(model, folder, STORE_TURNS * num_rounds),
            asyncio.run(measure_outages(model, folder / "outages", num_rounds)),
            *asyncio.run(measure_starts(model, folder, num_rounds, NUM_STORED)),
            measure_memory(model),
        )
    report = make_report(results)
    print(report)
    REPORT.write_text(report)


async def measure_outages(model: Path, folder: Path, num_rounds: int) -> list[dict[tuple[str, int], Outage]]:
    """Outages of each durability, with one session and with many, in turns."""
    rounds = tqdm(range(num_rounds), desc="outages", disable=None)
    return [
        {case: await measure_outage(model, folder / f"{number}-{case[0]}-{case[1]}", *case) for case in OUTAGES}
        for number in rounds
    ]


async def measure_starts(
    model: Path, folder: Path, num_rounds: int, num_stored: int
) -> tuple[list[dict[int, Start]], int]:
    """Starts with an empty folder and with so many stored sessions, in turns; and the bytes that these take on disk."""
    full = folder / "full"
    await fill(model, full, num_stored)
    starts = []
    for number in tqdm(range(num_rounds), desc="starts", disable=None):
        empty = await measure_start(model, folder / f"empty-{number}", None)
        starts.append({0: empty, num_stored: await measure_start(model, full, str(number * num_stored // num_rounds))})
    return starts, sum(path.stat().st_size for path in files_in(full))


if __name__ == "__main__":
    main()

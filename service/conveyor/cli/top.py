"""`conveyor top`: a server at work, from its Prometheus page."""

import argparse
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from conveyor.cli.metrics_page import Change, read_page
from conveyor.cli.server_options import seconds
from conveyor.cli.table import format_bytes

LATENCIES = {
    "waiting in the queue": "conveyor_queue_seconds",
    "a run of the model": "conveyor_run_seconds",
    "to the first token": "conveyor_first_token_seconds",
    "between two tokens": "conveyor_inter_token_seconds",
}
SHARES = (0.5, 0.9, 0.99)


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "top", help="watch a server at work", description="Shows a server's sessions, throughput and latency; q leaves."
    )
    parser.add_argument(
        "--metrics", default="localhost:9090", metavar="HOST:PORT", help="the metrics' address (default: %(default)s)"
    )
    parser.add_argument(
        "--interval", type=seconds, default=1.0, metavar="SECONDS", help="time between two readings (default: 1)"
    )
    parser.add_argument("--once", action="store_true", help="print one frame and leave")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    before = read_page(args.metrics)
    if args.once:
        sleep(args.interval)
        Console().print(frame(Change(before, read_page(args.metrics)), args.metrics))
        return 0
    with _keys(), Live(Text("reading..."), screen=sys.stdout.isatty(), auto_refresh=False) as live:
        while not _is_left(args.interval):
            after = read_page(args.metrics)
            live.update(frame(Change(before, after), args.metrics), refresh=True)
            before = after
    return 0


def frame(change: Change, address: str) -> RenderableType:
    """One picture of the server."""
    title = Text.assemble(("Conveyor", "bold"), f"  {address}  q leaves")
    return Group(title, "", _models(change), "", _latencies(change))


def _models(change: Change) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("model")
    for name in ("sessions", "resident", "spilled", "waiting", "arena", "steps/s", "tokens/s", "runs/s", "batch"):
        table.add_column(name, justify="right")
    for labels in change.after.models():
        table.add_row(*_model_row(change, labels))
    return table


def _model_row(change: Change, labels: dict[str, str]) -> list[str]:
    def gauge(name: str) -> float:
        return change.after.total(f"conveyor_{name}", **labels)

    batch = change.mean("conveyor_batch_sessions", **labels)
    counts = (gauge(name) for name in ("sessions", "resident_sessions", "spilled_sessions", "waiting_chunks"))
    rates = ("conveyor_steps_total", "conveyor_generated_tokens_total", "conveyor_run_seconds_count")
    return [
        f"{labels['model']}/{labels['version']}",
        *(f"{count:,.0f}" for count in counts),
        format_bytes(gauge("arena_bytes")),
        *(f"{change.rate(name, **labels):,.0f}" for name in rates),
        "-" if batch is None else f"{batch:.1f}",
    ]


def _latencies(change: Change) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("latency, ms")
    for share in SHARES:
        table.add_column(f"p{share * 100:.0f}", justify="right")
    for title, name in LATENCIES.items():
        values = (change.quantile(share, name) for share in SHARES)
        table.add_row(title, *("-" if value is None else f"{value * 1000:.3g}" for value in values))
    return table


@contextmanager
def _keys() -> Iterator[None]:
    """Lets single keys be read while it lasts."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _is_left(interval: float) -> bool:
    """Waits for the interval's end; True at once if q was pressed."""
    end = monotonic() + interval
    while (remaining := end - monotonic()) > 0:
        if not sys.stdin.isatty():
            sleep(remaining)
        elif select.select([sys.stdin], [], [], remaining)[0] and sys.stdin.read(1) in ("q", "Q"):
            return True
    return False

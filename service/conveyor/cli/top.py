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
    return Group(title, "", _sessions(change), "", _throughput(change), "", _latencies(change))


def _sessions(change: Change) -> Table:
    table = _table("sessions", "open", "resident", "spilled", "waiting", "arena")
    gauges = ("sessions", "resident_sessions", "spilled_sessions", "waiting_chunks")
    for labels in change.after.models():
        counts = (change.after.total(f"conveyor_{name}", **labels) for name in gauges)
        arena = format_bytes(change.after.total("conveyor_arena_bytes", **labels))
        table.add_row(_name(labels), *(f"{count:,.0f}" for count in counts), arena)
    return table


def _throughput(change: Change) -> Table:
    table = _table("throughput", "steps/s", "tokens/s", "runs/s", "sessions/run")
    counters = ("conveyor_steps_total", "conveyor_generated_tokens_total", "conveyor_run_seconds_count")
    for labels in change.after.models():
        rates = (change.rate(name, **labels) for name in counters)
        batch = change.mean("conveyor_batch_sessions", **labels)
        table.add_row(_name(labels), *(f"{rate:,.0f}" for rate in rates), "-" if batch is None else f"{batch:.1f}")
    return table


def _latencies(change: Change) -> Table:
    table = _table("latency, ms", *(f"p{share * 100:.0f}" for share in SHARES))
    for title, name in LATENCIES.items():
        values = (change.quantile(share, name) for share in SHARES)
        table.add_row(title, *("-" if value is None else f"{value * 1000:.3g}" for value in values))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(title, min_width=22)
    for column in columns:
        table.add_column(column, justify="right", min_width=9)
    return table


def _name(labels: dict[str, str]) -> str:
    return f"{labels['model']}/{labels['version']}"


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

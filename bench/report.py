"""Turns the rounds into tables, for the terminal and for `RESULTS.md`."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from bench.rows import CEILINGS, ROWS, TARGETS, Ceiling, Round, Row, Target
from conveyor_export.machine import cpu_name

RESULTS = Path(__file__).parent / "RESULTS.md"
LIBRARIES = ("onnxruntime", "grpcio", "protobuf", "numpy")


def make_report(rounds: Sequence[Round], memory: dict[str, float]) -> str:
    """The whole of `RESULTS.md`."""
    sections = [_conditions(len(rounds)), _rates(rounds), _ratios(rounds), _ceilings(rounds), describe_memory(memory)]
    return "# Results\n\n" + "\n\n".join(sections) + "\n"


def describe_machine() -> list[str]:
    """When and where this runs, and on what."""
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return [
        f"- {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {cpu_name()}, {len(os.sched_getaffinity(0))} cores,"
        f" load {os.getloadavg()[1]:.1f} over the last five minutes of it.",
        f"- Python {platform.python_version()}, {libraries}.",
    ]


def _conditions(num_rounds: int) -> str:
    return "\n".join(
        [
            "Made by `make bench`; do not edit.",
            "",
            *describe_machine(),
            "- An LSTM of embedding 256, hidden 512 and vocabulary 256 with random weights; every request is one step"
            " and asks for its best token; the bare runs return all logits.",
            "- ONNX Runtime has one thread everywhere; server and client are two processes that share the cores.",
            f"- Medians over {num_rounds} rounds, each of which measures every row in turn; quartiles in brackets."
            " A ratio is taken within a round.",
        ]
    )


def _rates(rounds: Sequence[Round]) -> str:
    lines = ["| measured | steps a second | p50 ms | p99 ms |", "| --- | ---: | ---: | ---: |"]
    return "\n".join(lines + [_rate_line(row, rounds) for row in ROWS])


def _rate_line(row: Row, rounds: Sequence[Round]) -> str:
    low, median, high = np.percentile([measured[row].rate for measured in rounds], [25, 50, 75])
    p50, p99 = (np.median([getattr(measured[row], name) for measured in rounds]) * 1e3 for name in ("p50", "p99"))
    return f"| {row.title} | {median:,.0f} ({low:,.0f} to {high:,.0f}) | {p50:.2f} | {p99:.2f} |"


def _ratios(rounds: Sequence[Round]) -> str:
    lines = ["| ratio | asked | measured | |", "| --- | --- | --- | --- |"]
    return "\n".join(lines + [_ratio_line(target, rounds) for target in TARGETS])


def _ratio_line(target: Target, rounds: Sequence[Round]) -> str:
    low, median, high = np.percentile([target.ratio(measured) for measured in rounds], [25, 50, 75])
    asked = f"at {'most' if target.is_upper else 'least'} {target.bound:g}"
    verdict = "met" if target.is_met(float(median)) else "**missed**"
    return f"| {target.title} | {asked} | {median:.2f} ({low:.2f} to {high:.2f}) | {verdict} |"


def _ceilings(rounds: Sequence[Round]) -> str:
    lines = [
        "What could be had at all, as shares of the echo's rate. An ideal server spends on a message what the echo"
        " does, on a step what the bare run does, and nothing else. The least server, `bench/least.py`, is the same"
        " runner behind the same gRPC, without sessions, checks, retries or metrics.",
        "",
        "| measured | this server | least server | ideal |",
        "| --- | ---: | ---: | ---: |",
    ]
    return "\n".join(lines + [_ceiling_line(ceiling, rounds) for ceiling in CEILINGS])


def _ceiling_line(ceiling: Ceiling, rounds: Sequence[Round]) -> str:
    rates = [(m[ceiling.row].rate, m[ceiling.least].rate, ceiling.rate(m), m[ceiling.echo].rate) for m in rounds]
    shares = np.median([np.divide(each[:3], each[3]) for each in rates], axis=0)
    return f"| {ceiling.row.title} | {' | '.join(f'{share:.2f}' for share in shares)} |"


def describe_memory(memory: dict[str, float]) -> str:
    """The table of what `bench.memory` measures."""
    lines = ["| a session that has been stepped | bytes, of which 4,096 are state |", "| --- | ---: |"]
    return "\n".join(lines + [f"| {where} | {size:,.0f} |" for where, size in memory.items()])

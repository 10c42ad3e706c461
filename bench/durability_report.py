"""Turns what `bench.durability` measures into tables, for the terminal and for `DURABILITY.md`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.outage import NUM_STEPS, Outage
from bench.report import describe_machine, describe_memory
from bench.restart import Start
from bench.stores import CASES, NUM_SESSIONS, Case, Comparison

REPORT = Path(__file__).parent / "DURABILITY.md"
ASKED = {Case("SQLite", "async"): 0.9}  # least share of the steps a second of sessions that are not stored


@dataclass(frozen=True, slots=True)
class Results:
    """Rounds of each part; `stored_bytes` are the stored sessions' on disk, `memory` is by where a session is."""

    stores: Sequence[dict[Case, Comparison]]
    outages: Sequence[dict[tuple[str, int], Outage]]
    starts: Sequence[dict[int, Start]]
    stored_bytes: int
    memory: dict[str, float]


def make_report(results: Results) -> str:
    """The whole of `DURABILITY.md`."""
    sections = [
        _conditions(len(results.starts), len(results.stores)),
        _stores(results.stores),
        _outages(results.outages),
        _starts(results.starts, results.stored_bytes),
        "Memory, without a store.\n\n" + describe_memory(results.memory),
    ]
    return "# What it costs to store sessions\n\n" + "\n\n".join(sections) + "\n"


def _conditions(num_rounds: int, num_turns: int) -> str:
    lines = [
        "Made by `python -m bench.durability`; do not edit.",
        "",
        *describe_machine(),
        "- An LSTM of embedding 256, hidden 512 and vocabulary 256 with random weights; every request is one step and"
        " asks for its best token. A state is 4,096 bytes.",
        "- ONNX Runtime has one thread; servers, clients and Valkey share the cores. Stores are on one disk.",
        f"- Medians over {num_rounds} rounds, of steps a second over {num_turns}, in each of which everything has its"
        " turn; in brackets the least and the most of all rounds.",
    ]
    return "\n".join(lines)


def _stores(rounds: Sequence[dict[Case, Comparison]]) -> str:
    lines = [
        f"Steps of {NUM_SESSIONS} sessions coalesced by the SDK. Right before and right after each measurement is one"
        " of a server without a store, and the ratio is to the mean of the two. The first line stores nothing either:"
        " its ratio is as far from 1 as chance takes it.",
        "",
        "| durability, store | steps a second | without a store | ratio | asked | p50 ms | p99 ms |",
        "| --- | ---: | ---: | --- | --- | ---: | ---: |",
    ]
    return "\n".join(lines + [_store_line(case, [measured[case] for measured in rounds]) for case in CASES])


def _store_line(case: Case, compared: Sequence[Comparison]) -> str:
    rate, p50, p99 = (np.median([getattr(each.stored, name) for each in compared]) for name in ("rate", "p50", "p99"))
    reference = np.median([each.reference for each in compared])
    ratios = [each.ratio for each in compared]
    return (
        f"| {case.title} | {rate:,.0f} | {reference:,.0f} | {_spread(ratios)} | {_verdict(case, ratios)}"
        f" | {p50 * 1e3:.2f} | {p99 * 1e3:.2f} |"
    )


def _verdict(case: Case, ratios: Sequence[float]) -> str:
    if case not in ASKED:
        return ""
    return f"at least {ASKED[case]:g}: " + ("met" if np.median(ratios) >= ASKED[case] else "**missed**")


def _outages(rounds: Sequence[dict[tuple[str, int], Outage]]) -> str:
    lines = [
        f"A server on SQLite is killed (`kill -9`) after {NUM_STEPS} steps of each session and started again at once"
        " on the same port, while every session of one client waits for its next step. Seconds since the signal.",
        "",
        "| durability, sessions | it listens | first answer | last answer |",
        "| --- | --- | --- | --- |",
    ]
    for case in rounds[0]:
        columns = [_spread([getattr(each[case], name) for each in rounds]) for name in Outage.__slots__]
        lines.append(f"| {case[0].upper()}, {case[1]} | {' | '.join(columns)} |")
    return "\n".join(lines)


def _starts(rounds: Sequence[dict[int, Start]], num_bytes: int) -> str:
    lines = [
        f"A server is started on SQLite. The file takes {num_bytes / 1e6:,.0f} MB when full, and is not in the system's"
        " memory before. Seconds from the start until it listens, and from then on until a client has connected and has"
        " the answer of one step: of a session that it opens, or takes out of the store.",
        "",
        "| stored sessions | it listens | first step |",
        "| ---: | --- | --- |",
    ]
    for num_stored in rounds[0]:
        columns = [_spread([getattr(each[num_stored], name) for each in rounds]) for name in Start.__slots__]
        lines.append(f"| {num_stored:,} | {' | '.join(columns)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    return f"{np.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

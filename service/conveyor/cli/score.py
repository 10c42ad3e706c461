"""`conveyor score`: how many bits per character a model needs for a text, streamed through one session."""

import argparse
import asyncio
import sys
from math import isnan, log
from time import perf_counter
from typing import Any

from conveyor.cli.server_options import add_address, add_model, connected
from conveyor.cli.text_file import add_text, read_text
from conveyor.client import Model, Session

BLOCK_TOKENS = 1 << 14


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "score",
        help="measure how well a model predicts a text",
        description="Tells how many bits per character a model needs for a text, streamed through one session.",
    )
    add_text(parser)
    add_address(parser)
    add_model(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    text = read_text(args.file)
    if len(text) < 2:
        raise ValueError(f"{args.file}: nothing to predict in {len(text)} characters")
    asyncio.run(_score(args, text))
    return 0


async def _score(args: argparse.Namespace, text: str) -> None:
    async with connected(args) as client, client.open(args.model) as session:
        begun = perf_counter()
        bits = await _bits(session, text)
        seconds = perf_counter() - begun
        num_predicted = len(text) - _first_length(session.model, text)
    print(f"bits per character: {bits / num_predicted:.4f}")
    print(f"characters per second: {len(text) / seconds:.0f} ({len(text)} in {seconds:.1f} s)")


async def _bits(session: Session, text: str) -> float:
    vocabulary = session.model.vocabulary
    if vocabulary is None:
        raise ValueError(f"model {session.model.name} has no vocabulary: it cannot score text")
    tokens = vocabulary.encode(text)
    nats = 0.0
    for start in range(0, len(tokens), BLOCK_TOKENS):
        scores = await session.score(tokens[start : start + BLOCK_TOKENS])
        nats -= sum(score for score in scores if not isnan(score))  # nothing comes before the first
        _show_progress(min(start + BLOCK_TOKENS, len(tokens)) / len(tokens))
    return nats / log(2)


def _first_length(model: Model, text: str) -> int:
    """Number of characters in the first token, which has no prediction."""
    vocabulary = model.vocabulary
    assert vocabulary is not None  # noqa: S101 - `_bits` refused it
    longest = max(map(len, vocabulary.symbols))
    first = vocabulary.encode(text[:longest])[0]
    return len(vocabulary.symbols[first]) if first else 1


def _show_progress(share: float) -> None:
    if sys.stderr.isatty():
        print(f"\r{share:4.0%}" if share < 1 else "\r    \r", end="", file=sys.stderr, flush=True)

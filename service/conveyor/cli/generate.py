"""`conveyor generate`: text from a model, character by character as it comes."""

import argparse
import asyncio
import sys
from typing import Any

from conveyor.cli.server_options import add_address, add_model, connected, count


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "generate",
        help="write text that a model continues",
        description="Writes text that a model continues, as it comes.",
    )
    add_address(parser)
    add_model(parser)
    parser.add_argument("--prompt", default="\n", metavar="TEXT", help="what to continue; - reads it from stdin")
    parser.add_argument("--max-tokens", type=count, default=500, metavar="N", help="most tokens (default: 500)")
    parser.add_argument("--temperature", type=float, help="0 takes the likeliest token; 1 is the model's own (default)")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="draw from the K likeliest tokens")
    parser.add_argument("--top-p", type=float, metavar="P", help="draw from the likeliest tokens that make up P")
    parser.add_argument("--repetition-penalty", type=float, metavar="X", help="above 1: fewer repetitions")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end after this; may be repeated")
    parser.add_argument("--seed", type=int, help="the same seed gives the same text")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    if args.prompt == "-":
        args.prompt = sys.stdin.read()
    asyncio.run(_generate(args))
    return 0


async def _generate(args: argparse.Namespace) -> None:
    async with connected(args) as client, client.open(args.model, seed=args.seed) as session:
        _write(args.prompt)
        async for token in session.generate(
            args.prompt,
            max_tokens=args.max_tokens,
            temperature=args.temperature,
            top_k=args.top_k,
            top_p=args.top_p,
            repetition_penalty=args.repetition_penalty,
            stop=args.stop,
        ):
            _write(token.text)
        _write("\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()

"""`conveyor fork`: a new session with the state of another."""

import argparse
import asyncio
from typing import Any

from conveyor.cli.server_options import add_address, connected


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "fork",
        help="open a new session with the state of another",
        description="Opens a new session with the state of another, and prints its id. Both stay open.",
    )
    parser.add_argument("session", metavar="ID", help="the session to copy")
    add_address(parser)
    parser.add_argument("--seed", type=int, help="key of its random numbers (default: the other's)")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    print(asyncio.run(_fork(args)))
    return 0


async def _fork(args: argparse.Namespace) -> str:
    async with connected(args) as client:
        session = await client.session(args.session)
        return (await session.fork(seed=args.seed)).id

"""`conveyor import`: a session from the file that `conveyor export` wrote."""

import argparse
import asyncio
from pathlib import Path
from typing import Any

from conveyor.cli.server_options import add_address, connected


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "import",
        help="open a session from a file",
        description="Opens a session from the file that `conveyor export` wrote, and prints its id.",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the file")
    add_address(parser)
    parser.add_argument("--seed", type=int, help="key of its random numbers (default: the one in the file)")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    print(asyncio.run(_import(args, args.file.read_bytes())))
    return 0


async def _import(args: argparse.Namespace, checkpoint: bytes) -> str:
    async with connected(args) as client:
        return (await client.import_session(checkpoint, seed=args.seed)).id

"""`conveyor export`: a session's state, as a file."""

import argparse
import asyncio
from pathlib import Path
from typing import Any

from conveyor.cli.server_options import add_address, connected
from conveyor.cli.table import format_bytes


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "export",
        help="write a session's state to a file",
        description="Writes a session's sealed state to a file, from which `conveyor import` opens a session.",
    )
    parser.add_argument("session", metavar="ID", help="the session; it stays open")
    parser.add_argument("file", metavar="FILE", type=Path, help="where to write")
    add_address(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    checkpoint, position = asyncio.run(_export(args))
    args.file.write_bytes(checkpoint)
    print(f"{args.file}: position {position}, {format_bytes(len(checkpoint))}")
    return 0


async def _export(args: argparse.Namespace) -> tuple[bytes, int]:
    async with connected(args) as client:
        session = await client.session(args.session)
        return await session.export(), session.position

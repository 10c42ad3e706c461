"""`conveyor load`: has a server load a model, or what is new of it."""

import argparse
import asyncio
from typing import Any

from conveyor.cli.models import format_versions
from conveyor.cli.server_options import add_address, connected
from conveyor.client.repository import Version


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "load",
        help="have a server load a model, or what is new of it",
        description="Has a server bring a model to what its folder and its conveyor.toml say now. No session is hurt.",
    )
    parser.add_argument("name", metavar="NAME", help="the model: its folder in the server's repository")
    add_address(parser, timeout=600.0)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    print(format_versions(asyncio.run(_load(args))))
    return 0


async def _load(args: argparse.Namespace) -> list[Version]:
    async with connected(args) as client:
        return await client.repository.load(args.name)

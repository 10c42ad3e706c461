"""`conveyor unload`: has a server let a model go."""

import argparse
import asyncio
from typing import Any

from conveyor.cli.server_options import add_address, connected, count


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "unload",
        help="have a server let a model go",
        description="Has a server open no more sessions on a model, and unload it when those that it has are over.",
    )
    parser.add_argument("name", metavar="NAME", help="the model")
    parser.add_argument("--version", type=count, default=0, metavar="N", help="only this version")
    parser.add_argument(
        "--wait",
        type=_seconds,
        metavar="SECONDS",
        help="how long its sessions may go on before they are ended (default: the server's unload_timeout)",
    )
    add_address(parser, timeout=86_400.0)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    num_ended = asyncio.run(_unload(args))
    print(f"unloaded; sessions ended: {num_ended}" if num_ended else "unloaded")
    return 0


async def _unload(args: argparse.Namespace) -> int:
    async with connected(args) as client:
        return await client.repository.unload(args.name, args.version, wait=args.wait)


def _seconds(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError("must be at least 0")
    return value

"""`conveyor models`: what a server has loaded, and what it could not load."""

import argparse
import asyncio
import sys
from typing import Any

from conveyor.cli.server_options import add_address, connected
from conveyor.cli.table import format_table
from conveyor.client.repository import ModelProblem, Version

HEADER = ("MODEL", "VERSION", "STATE", "SESSIONS", "ALIASES", "FINGERPRINT")


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "models",
        help="list the models of a server",
        description="Lists the loaded models of a server; its status is 1 if something is not as its folder says.",
    )
    add_address(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    versions, problems = asyncio.run(_list(args))
    print(format_versions(versions))
    for problem in problems:
        place = f"{problem.name}/{problem.version}" if problem.version else problem.name
        print(f"{place}: {problem.message}", file=sys.stderr)
    return 1 if problems else 0


async def _list(args: argparse.Namespace) -> tuple[list[Version], list[ModelProblem]]:
    async with connected(args) as client:
        return await client.repository.contents()


def format_versions(versions: list[Version]) -> str:
    """A table of them."""
    return format_table(HEADER, [_row(version) for version in versions])


def _row(version: Version) -> tuple[str, ...]:
    aliases = [f"{name} {percent}%" if percent else name for name, percent in version.aliases.items()]
    return (
        version.name,
        str(version.version),
        "ready" if version.is_open else "leaving",
        str(version.num_sessions),
        ", ".join(aliases),
        version.fingerprint[:12],
    )

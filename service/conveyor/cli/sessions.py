"""`conveyor sessions`: the open sessions of a server."""

import argparse
import asyncio
from datetime import UTC, datetime
from typing import Any

from conveyor.cli.server_options import add_address, connected
from conveyor.cli.table import format_bytes, format_seconds, format_table
from conveyor.client import SessionInfo

HEADER = ("SESSION", "MODEL", "POSITION", "STATE", "BYTES", "AGE", "ENDS IN")


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "sessions",
        help="list the open sessions of a server",
        description="Lists the open sessions of a server, oldest first, or those of its store.",
    )
    add_address(parser)
    parser.add_argument("--model", default="", help="only sessions of this model")
    parser.add_argument("--stored", action="store_true", help="those in the store, held by any server or by none")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    sessions = asyncio.run(_sessions(args))
    now = datetime.now(UTC)
    print(format_table(HEADER, [_row(session, now) for session in sessions]))
    return 0


async def _sessions(args: argparse.Namespace) -> list[SessionInfo]:
    async with connected(args) as client:
        return await client.sessions(args.model, stored=args.stored)


def _row(session: SessionInfo, now: datetime) -> tuple[str, ...]:
    return (
        session.session_id,
        f"{session.model_name}/{session.model_version}",
        str(session.position),
        session.residence,
        format_bytes(session.state_bytes),
        format_seconds((now - session.create_time).total_seconds()),
        format_seconds((session.expire_time - now).total_seconds()),
    )

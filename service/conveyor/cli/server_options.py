"""Options of the commands that talk to a server."""

import argparse

from conveyor.client import Client, connect


def add_address(parser: argparse.ArgumentParser, timeout: float = 10.0) -> None:
    """Adds `--address` and `--timeout`, with this default."""
    parser.add_argument(
        "--address",
        default="localhost:50051",
        metavar="HOST:PORT",
        help="the server's gRPC address (default: %(default)s)",
    )
    add_timeout(parser, timeout)


def add_timeout(parser: argparse.ArgumentParser, default: float = 10.0) -> None:
    """Adds `--timeout`."""
    about = f"longest wait for an answer (default: {default:g})"
    parser.add_argument("--timeout", type=seconds, default=default, metavar="SECONDS", help=about)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds `--model`."""
    parser.add_argument("--model", default="", help="name of the model; needed if the server has several")


def connected(args: argparse.Namespace) -> Client:
    """A client of the server that the options name."""
    return connect(args.address, timeout=args.timeout)


def seconds(text: str) -> float:
    """Reads a positive number of seconds."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def count(text: str) -> int:
    """Reads a positive whole number."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value

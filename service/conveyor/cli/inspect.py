"""`conveyor inspect`: what a model takes, keeps and gives, what can be batched, and where each node runs."""

import argparse
import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

from conveyor.cli.server_options import add_timeout, connected
from conveyor.cli.table import format_bytes, format_table
from conveyor.client import Model

HEADER = ("ROLE", "NAME", "DTYPE", "SHAPE", "")


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    summary = "tell what a model takes, keeps and gives, and where it runs"
    parser = subparsers.add_parser(
        "inspect",
        help=summary,
        description="Tells what a model takes, keeps and gives, what can be batched, and where each node runs.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("path", nargs="?", type=Path, metavar="PATH", help="an ONNX file, or a folder of models")
    source.add_argument("--address", metavar="HOST:PORT", help="a server's gRPC address")
    add_timeout(parser)
    parser.add_argument(
        "--state",
        action="append",
        default=[],
        type=_pair,
        metavar="IN=OUT",
        help="an input that is a state, and the output that replaces it, where the graph does not say; may be repeated",
    )
    parser.add_argument(
        "--write", action="store_true", help="write the signature beside the file, to be completed or corrected"
    )
    parser.add_argument("--nodes", action="store_true", help="list every node, not only those off CUDA")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    if args.address is not None:
        print("\n\n".join(map(describe_served, asyncio.run(_served(args)))))
        return 0
    print("\n\n".join(_report(path, args) for path in _files(args.path)))
    return 0


def _report(path: Path, args: argparse.Namespace) -> str:
    # These need the server's libraries; asking a server does not.
    from conveyor.cli.model_report import describe_file
    from conveyor.cli.signature_report import describe_proposal, proposal_of, write_signature

    proposal = proposal_of(path, dict(args.state))
    written = f"wrote {write_signature(path, proposal)}\n\n" if args.write else ""
    if proposal is not None and (proposal.questions or (args.state and not args.write)):
        return written + describe_proposal(path, proposal)
    return written + describe_file(path, all_nodes=args.nodes)


def _pair(text: str) -> tuple[str, str]:
    state, separator, output = text.partition("=")
    if not (state and separator and output):
        raise argparse.ArgumentTypeError(f"{text!r} is not IN=OUT")
    return state, output


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("**/*.onnx"))
    if not files:
        raise ValueError(f"{path}: no .onnx file in this folder")
    return files


async def _served(args: argparse.Namespace) -> list[Model]:
    async with connected(args) as client:
        return [await client.model(each.name, each.version) for each in await client.models()]


def describe_served(model: Model) -> str:
    """What a server tells of a model."""
    vocabulary = f"{len(model.vocabulary)} tokens" if model.vocabulary else "none"
    tensors = [
        (role, info.name, info.dtype, str(list(info.shape)), "on request" if info.is_optional else "")
        for role in ("inputs", "noises", "states", "outputs", "contexts")
        for info in getattr(model, role)
    ]
    kinds = Counter(role for role, *_ in tensors)
    return "\n".join(
        (
            f"{model.name}, version {model.version}",
            f"  fingerprint  {model.fingerprint}",
            f"  state        {format_bytes(model.state_bytes)} per session in {kinds['states']} tensors",
            f"  context      {format_bytes(model.context_bytes)} per session",
            f"  vocabulary   {vocabulary}",
            "",
            format_table(HEADER, [(row[0].rstrip("s"), *row[1:]) for row in tensors], "  "),
        )
    )

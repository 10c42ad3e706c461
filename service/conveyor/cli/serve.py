"""`conveyor serve`: runs a server until it is told to stop."""

import asyncio
import os
import sys
from argparse import ArgumentParser, Namespace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from conveyor.graph.errors import ModelError
from conveyor.settings import SettingsError, add_flags, load
from conveyor.telemetry.logs import set_up

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from conveyor.server import Server

# Left to itself, gRPC hands what arrives to a pool of threads. Without that, the thread that waits for events reads the
# sockets too: a lone session is answered a seventh sooner. A gRPC that no longer has the choice says so and goes on.
GRPC_EXPERIMENTS = "-event_engine_listener"


def add_parser(subparsers: "_SubParsersAction[ArgumentParser]") -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "serve",
        help="serve a model file or a folder of models",
        description="Serves a folder of models, or one model. A setting comes from its flag, else from the environment "
        "(CONVEYOR_PORT for --port), else from the file of --config or CONVEYOR_CONFIG.",
    )
    parser.add_argument("models", nargs="?", metavar="PATH", help="folder of NAME/VERSION/model.onnx, or an .onnx file")
    add_flags(parser)


def run(args: Namespace) -> int:
    """Serves; 0 after a shutdown, 1 if it cannot serve, 2 for settings that are wrong."""
    try:
        settings = load(args, os.environ)
    except SettingsError as error:
        return _fail(error, 2)
    set_up(settings.log_level, settings.log_format)
    os.environ.setdefault("GRPC_EXPERIMENTS", GRPC_EXPERIMENTS)
    from conveyor.server import serve  # loads gRPC, which reads its environment then

    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(serve(settings, _announce))
    except (ModelError, OSError) as error:
        return _fail(error, 1)
    return 0


def loop_factory() -> Any:
    """Returns uvloop's loop if that is installed: a message takes a quarter less of its CPU. Else asyncio's own."""
    try:
        return import_module("uvloop").new_event_loop
    except ModuleNotFoundError:
        return None


def _announce(server: "Server") -> None:
    print(f"listening on {server.address}")
    print(f"metrics on http://{server.metrics_address}/metrics", flush=True)


def _fail(error: Exception, status: int) -> int:
    print(f"conveyor serve: {' '.join(str(error).split())}", file=sys.stderr)
    return status

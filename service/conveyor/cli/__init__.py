"""The `conveyor` command: one file for each of its commands, loaded when it is the one that is asked for."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from keyword import iskeyword

from conveyor import __version__
from conveyor.errors import ConveyorError

COMMANDS = {
    "serve": "serve a model file or a folder of models",
    "inspect": "tell what a model takes, keeps and gives, and where it runs",
    "generate": "write text that a model continues",
    "score": "measure how well a model predicts a text",
    "models": "list the models of a server",
    "load": "have a server load a model, or what is new of it",
    "unload": "have a server let a model go",
    "sessions": "list the open sessions of a server",
    "fork": "open a new session with the state of another",
    "export": "write a session's state to a file",
    "import": "open a session from a file",
    "top": "watch a server at work",
    "watch": "watch what the gates of an LSTM do while it reads a text",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status: 0, 1 for a failure, 2 for bad usage, 130 for ctrl-C."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of a pipe has left; closing stdout must not fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SystemExit as leaving:  # argparse has printed why
        return leaving.code if isinstance(leaving.code, int) else 1
    except Exception as error:
        print(f"conveyor: {_sentence(error)}", file=sys.stderr)
        return 1
    return status


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="conveyor", description="Serves recurrent sequence models.")
    parser.add_argument("--version", action="version", version=f"conveyor {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    named = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, summary in COMMANDS.items():
        if name != named:
            subparsers.add_parser(name, help=summary)
    if named not in COMMANDS:
        parser.parse_args(arguments)
        return 0
    # Only this one is imported: a client's command must not wait for the server's libraries, nor need them.
    # `import` is a word that no module can be named by.
    command = import_module(f"conveyor.cli.{named}_" if iskeyword(named) else f"conveyor.cli.{named}")
    command.add_parser(subparsers)
    status: int = command.run(parser.parse_args(arguments))
    return status


def _sentence(error: Exception) -> str:
    """One readable line."""
    from conveyor.client import ClientError  # not before a command has chosen how gRPC is to run

    if isinstance(error, ModuleNotFoundError):
        return f"this command needs {error.name}: install conveyor-serve[cpu] or conveyor-serve[gpu]"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = " ".join(str(error).split()) or type(error).__name__
    # These are written for people; of anything else the type tells more than the text.
    is_for_people = isinstance(error, ClientError | ConveyorError | ValueError | OSError)
    return text if is_for_people else f"{type(error).__name__}: {text}"

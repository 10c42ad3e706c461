"""The text that a command reads."""

import argparse
import lzma
import sys
from pathlib import Path


def add_text(parser: argparse.ArgumentParser) -> None:
    """Adds `FILE`."""
    parser.add_argument("file", metavar="FILE", help="UTF-8 text, plain or .xz; - reads it from stdin")


def read_text(name: str) -> str:
    """Text of a file, a compressed one, or stdin.

    Raises:
        ValueError: it is not what its name says.
    """
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return (lzma.decompress(data) if name.endswith(".xz") else data).decode()
    except lzma.LZMAError:
        raise ValueError(f"{name}: not an xz file") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8 text: {error.reason} at byte {error.start}") from None

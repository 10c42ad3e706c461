"""The `conveyor-export` command."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from conveyor_export.corpus import read_text
from conveyor_export.errors import ExportError
from conveyor_export.export import DEFAULT_OPSET, OPSETS, ExportOptions, export_model
from conveyor_export.precision import Precision
from conveyor_export.proof import DEFAULT_TOLERANCE
from conveyor_export.source import load_source

_EPILOG = """examples:
  conveyor-export runs/shakespeare/best.pt models/shakespeare/1/model.onnx --half
  conveyor-export mypackage.models:make_model model.onnx --vocabulary symbols.json --int8 --text play.txt
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    try:
        _run(options, arguments)
    except (ExportError, OSError, UnicodeDecodeError) as error:
        sys.stderr.write(f"conveyor-export: {error}\n")
        return 1
    return 0


def _run(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    export_options = ExportOptions(options.opset, options.precision, options.tolerance, options.gates)
    text = read_text(options.text) if options.text else None
    source = load_source(options.source, options.vocabulary)
    # Names of files without their folders: the file travels, this machine's paths do not.
    command = " ".join(["conveyor-export", *(Path(argument).name for argument in arguments)])
    report = export_model(
        source.module,
        options.out,
        vocabulary=source.vocabulary,
        options=export_options,
        text=text,
        provenance={**source.provenance, "command": command},
    )
    sys.stdout.write(f"{report}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "conveyor-export",
        description="Exports a recurrent PyTorch model to one ONNX file, proven equal to it before it is written.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source", help="a checkpoint of conveyor-train, a language model that was exported, or package.module:attribute"
    )
    parser.add_argument("out", type=Path, help="the ONNX file to write")
    parser.add_argument("--vocabulary", type=Path, metavar="FILE", help="JSON list of strings, entry 0 = unknown")
    parser.add_argument("--text", type=Path, metavar="FILE", help="a text (.xz too) to score in bits per character")
    parser.add_argument(
        "--opset", type=int, default=DEFAULT_OPSET, help=f"{OPSETS[0]} to {OPSETS[-1]}, default %(default)s"
    )
    parser.add_argument(
        "--tolerance", type=float, default=DEFAULT_TOLERANCE, help="largest absolute difference, default %(default)s"
    )
    parser.add_argument(
        "--gates",
        action="store_true",
        help="let LSTM layers give their gates as outputs on request, for conveyor watch",
    )
    forms = parser.add_mutually_exclusive_group()
    for flag, precision, text in _FORMS:
        forms.add_argument(flag, dest="precision", action="store_const", const=precision, help=text)
    parser.set_defaults(precision=Precision.FLOAT32)
    return parser


_FORMS = (
    ("--half", Precision.HALF, "store weights as float16, compute in float32: half the file"),
    ("--fp16", Precision.FLOAT16, "compute in float16: for GPUs"),
    ("--int8", Precision.INT8, "int8 weights of LSTM and MatMul: for CPUs"),
)

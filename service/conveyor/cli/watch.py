"""`conveyor watch`: what the gates of one unit do while a model reads a text."""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from itertools import islice
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from conveyor.cli.gate_layers import Layer, find_layer
from conveyor.cli.gate_view import Moment, bars, coloured, heading, level
from conveyor.cli.server_options import add_address, add_model, connected, seconds
from conveyor.cli.text_file import add_text, read_text
from conveyor.client import Client, Model, Session

Token = tuple[int, str]  # a token and the text that it stands for

CHUNK_TOKENS = 32
SURVEY_TOKENS = 2000  # of these the liveliest unit is found


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "watch",
        help="watch what the gates of an LSTM do while it reads a text",
        description="Streams a text through a session and shows it coloured by one unit, with bars of its gates.",
    )
    add_text(parser)
    add_address(parser)
    add_model(parser)
    parser.add_argument("--layer", type=int, metavar="L", help="number of the layer, from 0 (default: the last)")
    parser.add_argument(
        "--unit", type=int, metavar="N", help="number of the unit, from 0 (default: the one that varies most)"
    )
    parser.add_argument("--gate", default="cell", metavar="NAME", help="what colours the text (default: %(default)s)")
    parser.add_argument(
        "--delay",
        type=seconds,
        default=0.05,
        metavar="SECONDS",
        help="on a terminal, pause after each character (default: 0.05)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    text = read_text(args.file)
    if not text:
        raise ValueError(f"{args.file}: nothing to watch, it is empty")
    asyncio.run(_watch(args, text))
    return 0


async def _watch(args: argparse.Namespace, text: str) -> None:
    async with connected(args) as client, client.open(args.model) as session:
        tokens = _tokens(session.model, text)
        layer = find_layer(session.model, args.layer, args.gate, args.unit)
        unit = args.unit
        if unit is None:
            unit = await _liveliest(client, session.model, layer, args.gate, tokens)
        title = f"{session.model.name}, layer {layer.number}, unit {unit}: {args.gate}"
        await _show(title, args.gate, _moments(session, layer, unit, tokens), args.delay)


def _tokens(model: Model, text: str) -> list[Token]:
    if model.vocabulary is None:
        raise ValueError(f"model {model.name} has no vocabulary: it cannot read text")
    pairs, start = [], 0
    for token in model.vocabulary.encode(text):
        length = len(model.vocabulary.symbols[token]) if token else 1  # an unknown one stands for one character
        pairs.append((token, text[start : start + length]))
        start += length
    return pairs


def _chunks(tokens: list[Token]) -> Iterator[list[Token]]:
    return (tokens[start : start + CHUNK_TOKENS] for start in range(0, len(tokens), CHUNK_TOKENS))


async def _liveliest(client: Client, model: Model, layer: Layer, gate: str, tokens: list[Token]) -> int:
    """The unit whose colour varies most over the beginning of the text, read in a session of its own."""
    output, rows = layer.output(gate), list[list[float]]()
    async with client.open(model.name, version=model.version) as session:
        for chunk in _chunks(tokens[:SURVEY_TOKENS]):
            answer = await session.step([token for token, _ in chunk], outputs=[output])
            rows += answer[output].tolist()
    units = islice(zip(*rows, strict=True), layer.num_units)
    spreads = [_variance([level(gate, value) for value in unit]) for unit in units]
    return spreads.index(max(spreads))


def _variance(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / len(values)


async def _moments(session: Session, layer: Layer, unit: int, tokens: list[Token]) -> AsyncIterator[Moment]:
    names = {gate: layer.output(gate) for gate in layer.gates}
    for chunk in _chunks(tokens):
        answer = await session.step([token for token, _ in chunk], outputs=list(names.values()))
        steps = {gate: answer[name].tolist() for gate, name in names.items()}
        for place, (_, text) in enumerate(chunk):
            yield Moment(text, {gate: values[place][unit] for gate, values in steps.items()})


async def _show(title: str, gate: str, moments: AsyncIterator[Moment], delay: float) -> None:
    """Line by line; on a terminal character by character, with the bars of the latest below."""
    console, line, picture = Console(highlight=False), list[Moment](), Group()
    console.print(heading(title, gate), "", sep="\n")
    # Not for rich to decide: a file that was promised colours is no terminal.
    is_live = sys.stdout.isatty()
    with Live(console=console, auto_refresh=False) if is_live else nullcontext() as live:
        async for moment in moments:
            text = coloured([*line, moment], gate)
            if line and text.cell_len > console.width:  # rich would break it at a space, wherever that is
                console.print(coloured(line, gate))
                line, text = [], coloured([moment], gate)
            line.append(moment)
            if moment.text.endswith("\n"):
                console.print(text)
                line, text = [], Text()
            picture = Group(text, "", bars(moment.gates))
            if live is not None:
                live.update(picture, refresh=True)
                await asyncio.sleep(delay)
    if live is None:
        console.print(picture)

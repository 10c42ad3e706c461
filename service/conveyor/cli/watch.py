"""`conveyor watch`: what the gates of one unit do while a model reads a text."""

import argparse
import asyncio
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from conveyor.cli.gate_view import Moment, bars, coloured, heading, level
from conveyor.cli.server_options import add_address, connected, seconds
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
    parser.add_argument("--model", default="", help="name of the model; needed if the server has several")
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


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer whose gates can be asked for. Output `cell0` is the gate `cell` of layer 0."""

    number: int
    gates: tuple[str, ...]
    num_units: int


async def _watch(args: argparse.Namespace, text: str) -> None:
    async with connected(args) as client, client.open(args.model) as session:
        tokens = _tokens(session.model, text)
        layer = find_layer(session.model, args)
        unit = args.unit
        if unit is None:
            unit = await _liveliest(client, session.model, layer, args.gate, tokens)
        title = f"{session.model.name}, layer {layer.number}, unit {unit}: {args.gate}"
        await _show(title, args.gate, _moments(session, layer, unit, tokens), args.delay)


def find_layer(model: Model, args: argparse.Namespace) -> Layer:
    """The layer that the options name.

    Raises:
        ValueError: the model offers no gates, or not of this layer, not this one, or has no such unit.
    """
    layers = offered_layers(model)
    if not layers:
        raise ValueError(f"model {model.name} offers no gates: export it again with conveyor-export --gates")
    layer = layers.get(max(layers) if args.layer is None else args.layer)
    if layer is None:
        raise ValueError(
            f"--layer {args.layer}: model {model.name} offers layers {', '.join(map(str, sorted(layers)))}"
        )
    if args.gate not in layer.gates:
        raise ValueError(f"--gate {args.gate}: layer {layer.number} offers {', '.join(layer.gates)}")
    if args.unit is not None and not 0 <= args.unit < layer.num_units:
        raise ValueError(f"--unit {args.unit}: layer {layer.number} has units 0 to {layer.num_units - 1}")
    return layer


def offered_layers(model: Model) -> dict[int, Layer]:
    """The layers whose gates are among the model's optional outputs, by their numbers."""
    layers: dict[int, Layer] = {}
    for info in model.outputs:
        match = re.fullmatch(r"([a-z_]+)(\d+)", info.name)
        if match and info.is_optional and len(info.shape) == 1:
            number = int(match[2])
            gates = layers[number].gates if number in layers else ()
            layers[number] = Layer(number, (*gates, match[1]), info.shape[0])
    return layers


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
    output, rows = f"{gate}{layer.number}", list[list[float]]()
    async with client.open(model.name, version=model.version) as session:
        for chunk in _chunks(tokens[:SURVEY_TOKENS]):
            answer = await session.step([token for token, _ in chunk], outputs=[output])
            rows += answer[output].tolist()
    spreads = [_variance([level(gate, value) for value in unit]) for unit in zip(*rows, strict=True)]
    return spreads.index(max(spreads))


def _variance(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / len(values)


async def _moments(session: Session, layer: Layer, unit: int, tokens: list[Token]) -> AsyncIterator[Moment]:
    names = {gate: f"{gate}{layer.number}" for gate in layer.gates}
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
            line.append(moment)
            text = coloured(line, gate)
            if moment.text.endswith("\n") or text.cell_len >= console.width:
                console.print(text)
                line, text = [], Text()
            picture = Group(text, "", bars(moment.gates))
            if live is not None:
                live.update(picture, refresh=True)
                await asyncio.sleep(delay)
    if live is None:
        console.print(picture)

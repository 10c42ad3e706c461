"""A text coloured by what one unit of a layer does at each token, and bars of its gates at the last one."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, tanh

from rich.bar import Bar
from rich.color import Color, blend_rgb
from rich.color_triplet import ColorTriplet
from rich.style import Style
from rich.table import Table
from rich.text import Text

SIGNED = ("cell", "candidate")  # around 0; gates go from 0 to 1
BAR_WIDTH = 40

WHITE, BLACK = ColorTriplet(255, 255, 255), ColorTriplet(0, 0, 0)
RED, BLUE, GREEN = ColorTriplet(178, 24, 43), ColorTriplet(33, 102, 172), ColorTriplet(0, 109, 44)
DARK = 0.6  # share of a colour from which text on it is white


@dataclass(frozen=True, slots=True)
class Moment:
    """A token's text, and the unit's gates at it by name."""

    text: str
    gates: dict[str, float]


def heading(title: str, gate: str) -> Text:
    """The title, after what the colours of this gate mean."""
    values = (-inf, 0.0, inf) if gate in SIGNED else (0.0, 1.0)
    legend = [(f" {level(gate, value):.0f} ", style_of(gate, value)) for value in values]
    return Text.assemble(*legend, "  ", (title, "bold"))


def coloured(moments: Sequence[Moment], gate: str) -> Text:
    """The moments' text, coloured by this gate."""
    return Text.assemble(*((printable(m.text), style_of(gate, m.gates[gate])) for m in moments))


def bars(gates: dict[str, float]) -> Table:
    """A bar for each gate, from the middle for those that have a sign."""
    table = Table.grid(padding=(0, 1))
    for name, value in gates.items():
        share = level(name, value)
        low = -1.0 if name in SIGNED else 0.0
        bar = Bar(1 - low, min(0, share) - low, max(0, share) - low, width=BAR_WIDTH, color=_end(name, share).hex)
        table.add_row(name, bar, f"{value:+.3f}" if name in SIGNED else f"{value:.3f}")
    return table


def level(name: str, value: float) -> float:
    """Between -1 and 1 for what has a sign, between 0 and 1 for a gate; what goes further is cut.

    Of a cell state it is the tanh, which is what the output gate lets through.
    """
    value = tanh(value) if name == "cell" else value
    return min(1.0, max(-1.0 if name in SIGNED else 0.0, value))


def style_of(name: str, value: float) -> Style:
    """White for 0; the further from it, the fuller the colour."""
    share = level(name, value)
    background = blend_rgb(WHITE, _end(name, share), abs(share))
    letters = WHITE if abs(share) > DARK else BLACK
    return Style(color=Color.from_triplet(letters), bgcolor=Color.from_triplet(background))


def printable(text: str) -> str:
    """The text with marks for line breaks, which have a colour too, and for what would move the cursor."""
    return "".join("↵" if c == "\n" else c if c.isprintable() else "·" for c in text)


def _end(name: str, share: float) -> ColorTriplet:
    if name not in SIGNED:
        return GREEN
    return RED if share > 0 else BLUE

"""How gates are drawn."""

import io
from math import atanh, inf

import pytest
from rich.console import Console

from conveyor.cli.gate_view import BAR_WIDTH, Moment, bars, coloured, level, printable, style_of


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("cell", atanh(0.5), 0.5),
        ("cell", -inf, -1.0),
        ("candidate", -0.25, -0.25),
        ("candidate", 7.0, 1.0),
        ("forget", 0.25, 0.25),
        ("forget", -0.5, 0.0),
    ],
)
def test_levels_stay_within_what_can_be_drawn(name: str, value: float, expected: float) -> None:
    """A cell counts by its tanh, and what goes beyond the scale is cut."""
    assert level(name, value) == pytest.approx(expected)


def colour(name: str, value: float) -> tuple[int, int, int]:
    """The background's red, green and blue."""
    background = style_of(name, value).bgcolor
    assert background is not None
    return tuple(background.get_truecolor())


def test_colours_part_around_zero() -> None:
    """Zero is white; above it red prevails, below it blue, and a gate only gets greener."""
    assert colour("cell", 0.0) == colour("input", 0.0) == (255, 255, 255)
    red, _, blue = colour("cell", 2.0)
    assert red > blue
    red, _, blue = colour("cell", -2.0)
    assert red < blue
    assert [colour("input", value)[1] for value in (0.0, 0.5, 1.0)] == [255, 182, 109]


def test_a_text_keeps_its_characters() -> None:
    """Every character has its own colour; a line break has a mark, and nothing moves the cursor."""
    text = coloured([Moment(c, {"cell": 0.1 * n}) for n, c in enumerate("a[b]\x1b\t\n")], "cell")

    assert text.plain == "a[b]··↵"
    assert len({str(span.style) for span in text.spans}) == 7
    assert printable("é漢") == "é漢"


def test_bars_are_as_long_as_their_values() -> None:
    """Half of an open gate fills half of its bar; what has a sign starts in the middle."""
    console = Console(file=io.StringIO(), width=80)
    console.print(bars({"forget": 0.5, "candidate": 0.5, "cell": -inf}))
    forget, candidate, cell = console.file.getvalue().splitlines()

    assert forget.count("█") == BAR_WIDTH // 2
    assert (candidate.count("█"), cell.count("█")) == (BAR_WIDTH // 4, BAR_WIDTH // 2)
    assert cell.index("█") == forget.index("█")
    assert candidate.index("█") == forget.index("█") + BAR_WIDTH // 2
    assert candidate.split()[-1] == "+0.500"

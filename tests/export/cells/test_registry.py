"""The list of architectures."""

import re
from pathlib import Path

import pytest

from conveyor_export.cells.clockwork import ClockworkCell
from conveyor_export.cells.mut import MUTCell
from conveyor_export.cells.registry import ROWS

PAGE = Path(__file__).parents[3] / "docs" / "architectures.md"


def test_the_page_lists_every_row() -> None:
    """The documentation has each architecture in the registry's order, with what it is and the states of a layer."""
    listed = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)

    assert listed == [
        (name, row.about, ", ".join(f"`{state[:-1]}`" for state in row.make(8, 8, 1, 0.0).states))
        for name, row in ROWS.items()
    ]


def test_sizes_that_a_cell_cannot_have_are_refused() -> None:
    """The error names the architecture and both sizes."""
    with pytest.raises(ValueError, match="mut2: input size 3 differs from hidden size 4"):
        MUTCell(3, 4, 2)
    with pytest.raises(ValueError, match="clockwork: hidden size 4 cannot be cut into 3 equal modules"):
        ClockworkCell(3, 4, (1, 2, 4))

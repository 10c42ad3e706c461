"""The list of models that are more than a cell."""

import re
from pathlib import Path

from conveyor_export.models import MODELS
from conveyor_export.protocol import signature_of

DOCS = Path(__file__).parents[2] / "docs"


def test_each_model_is_on_a_page() -> None:
    """The documentation has every model, with the states of its sessions."""
    pages = [(DOCS / name).read_text() for name in ("attention.md", "generative.md")]
    listed = [row for page in pages for row in re.findall(r"^\| `(\w+)` \| .+ \| (.+) \|$", page, re.MULTILINE)]

    states = {name: [state.name for state in signature_of(make()).states] for name, make in MODELS.items()}
    assert listed == [(name, ", ".join(f"`{state}`" for state in names)) for name, names in states.items()]

"""What several tests of the engine share."""

from collections.abc import Iterator

import pytest

from conveyor.engine import prefixes


@pytest.fixture(scope="module")
def short_prefixes() -> Iterator[None]:
    """The prefix cache keeps and seeks texts of two tokens and more: of its module, for Hypothesis runs it once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "MIN_TOKENS", 2)
        patch.setattr(prefixes, "SPACING", 3)
        yield

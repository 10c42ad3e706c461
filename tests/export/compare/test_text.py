"""The task of a text: windows of it, and what was held out stays out."""

from pathlib import Path

import pytest
import torch

from conveyor_export.compare.text import Text


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A text whose middle has one letter, the last twentieth another, and the one before it a third."""
    path = tmp_path / "text.txt"
    path.write_text("ab" * 900 + "a" * 100 + "b" * 100)
    return path


def test_targets_are_the_next_characters(path: Path) -> None:
    """Every step is scored with the character after it."""
    batch = Text(path, num_steps=10).draw(50, rng())

    assert bool(batch.is_scored.all())
    assert torch.equal(batch.tokens[1:], batch.targets[:-1])
    assert torch.equal(batch.tokens, 3 - batch.targets)


def test_parts_are_their_own_texts(path: Path) -> None:
    """Validation and test windows come from what training windows never see."""
    task = Text(path, num_steps=10)

    assert task.vocabulary_size == 3
    assert task.draw(50, rng(), "validation").tokens.unique().tolist() == [1]
    assert task.draw(50, rng(), "test").targets.unique().tolist() == [2]


def test_a_text_without_room_for_a_window_is_refused(path: Path) -> None:
    """The message tells how much there is."""
    with pytest.raises(ValueError, match="corpus: too short: windows of 100 characters, 100 held out"):
        Text(path, num_steps=100)

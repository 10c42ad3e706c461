"""The synthetic tasks: what is asked follows from what is read, and nothing else is scored."""

from itertools import pairwise

import pytest
import torch

from conveyor_export.compare.cli import SYNTHETIC
from conveyor_export.compare.synthetic import Adding, Arithmetic, Copying, Timing
from conveyor_export.compare.task import Batch


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def columns(batch: Batch) -> list[tuple[list[int], list[int]]]:
    """Of each sequence its tokens, and the targets that are scored."""
    columns = zip(batch.tokens.T, batch.targets.T, batch.is_scored.T, strict=True)
    return [(tokens.tolist(), targets[is_scored].tolist()) for tokens, targets, is_scored in columns]


@pytest.mark.parametrize("name", SYNTHETIC)
def test_sequences_are_as_the_task_says(name: str) -> None:
    """Length and tokens keep to the task's numbers, and the same random numbers give the same sequences."""
    task = SYNTHETIC[name]()
    batch, again = task.draw(200, rng()), task.draw(200, rng())

    assert batch.tokens.shape == batch.targets.shape == batch.is_scored.shape == (task.num_steps, 200)
    assert int(batch.tokens.min()) >= 0
    assert int(max(batch.tokens.max(), batch.targets.max())) == task.vocabulary_size - 1
    assert torch.equal(batch.tokens, again.tokens)
    assert len({tuple(tokens) for tokens, _ in columns(batch)}) > 100


def test_copying_asks_for_the_beginning_after_the_signal() -> None:
    """The first symbols are scored from the signal on, where the input tells nothing more of them."""
    for tokens, targets in columns(Copying(num_symbols=8, length=4, delay=8).draw(50, rng())):
        assert targets == tokens[:4]
        assert set(targets) <= set(range(1, 9))
        assert tokens[4:] == [0] * 8 + [9] + [0] * 3


def test_adding_asks_for_the_sum_of_the_marked_digits() -> None:
    """One digit of each half is marked, and the last step alone is scored."""
    task = Adding(num_steps=12)
    batch = task.draw(300, rng())
    for tokens, targets in columns(batch):
        marked = [place for place, token in enumerate(tokens) if token >= 10]
        assert [place // 6 for place in marked] == [0, 1]
        assert targets == [sum(tokens[place] - 10 for place in marked)]
    assert batch.is_scored.sum(0).tolist() == [1] * 300
    assert bool(batch.is_scored[-1].all())
    assert int(batch.tokens.max()) == 19


def test_arithmetic_asks_for_the_digits_of_the_sum() -> None:
    """Read from the lowest digit on, the answer is the sum of the two numbers, and is fed a step after it is asked."""

    def number(digits: list[int]) -> int:
        return sum(digit * 10**place for place, digit in enumerate(digits))

    for tokens, targets in columns(Arithmetic(num_digits=3).draw(300, rng())):
        assert (tokens[3], tokens[7]) == (10, 11)
        assert number(tokens[:3]) + number(tokens[4:7]) == number(targets)
        assert tokens[8:] == targets[:-1]


def test_timing_asks_for_the_steps_between_marks() -> None:
    """Each mark but the one at the start is scored with its distance from the one before."""
    for tokens, targets in columns(Timing(num_steps=40, shortest=2, longest=12).draw(300, rng())):
        marks = [place for place, token in enumerate(tokens) if token]
        assert set(tokens) == {0, 1}
        assert marks[0] == 0
        assert targets == [after - before for before, after in pairwise(marks)]
        assert min(targets) >= 2
        assert max(targets) <= 12

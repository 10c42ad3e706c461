"""The task of a text: after each character the next is to be named."""

from pathlib import Path

import torch
from torch import Generator

from conveyor_export.compare.task import Batch, Part
from conveyor_export.corpus import read_text, split_corpus
from conveyor_export.training import build_vocabulary, encode_works


class Text:
    """Windows from random places, each read from the initial state on. Validation and test are of held-out works.

    Raises:
        OSError, UnicodeDecodeError: the text cannot be read.
        ValueError: it is too short to hold a window of it out.
    """

    def __init__(self, path: Path, num_steps: int = 40) -> None:
        split = split_corpus(read_text(path))
        symbols = build_vocabulary("".join(work.text for work in split.training))
        works = {"training": split.training, "validation": split.validation, "test": split.test}
        self._parts = {part: torch.cat(encode_works(each, symbols)) for part, each in works.items()}
        self.vocabulary_size, self.num_steps = len(symbols), num_steps
        if (shortest := min(map(len, self._parts.values()))) <= num_steps:
            raise ValueError(f"corpus: too short: windows of {num_steps} characters, {shortest} held out")

    def draw(self, num_sequences: int, rng: Generator, part: Part = "training") -> Batch:
        """See `Task`."""
        text = self._parts[part]
        starts = torch.randint(0, len(text) - self.num_steps, (num_sequences,), generator=rng)
        places = torch.arange(self.num_steps)[:, None] + starts
        return Batch(text[places], text[places + 1], torch.ones_like(places, dtype=torch.bool))

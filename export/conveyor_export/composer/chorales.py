"""Bach's chorales, as music21 ships them: which keys of a piano are held, quarter note by quarter note."""

from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

LOWEST_KEY, NUM_KEYS = 33, 52  # MIDI numbers; the voices go from 36 to 81, and may be moved by three
_NUM_VOICES = 4
_MOST_STEPS = 128
_HELD_OUT = 8  # one chorale of so many

Note = tuple[float, float, list[int]]  # the quarters at which it starts and stops, and its MIDI numbers


@dataclass(frozen=True, slots=True)
class Chorales:
    """Rolls of 0 and 1, `[steps, NUM_KEYS]` float32 each."""

    learned: list[Tensor]
    held_out: list[Tensor]


def read_chorales() -> Chorales:
    """Every chorale of four voices and at most 128 quarters, none twice; each eighth, from the first on, is held out.

    Raises:
        ImportError: music21 is not installed.
    """
    from music21 import corpus

    rolls = (roll_of(notes) for notes in map(_notes, sorted(corpus.getComposer("bach"))) if notes)
    different = {roll.numpy().tobytes(): roll for roll in rolls if len(roll) <= _MOST_STEPS}
    chorales = list(different.values())
    learned = [roll for index, roll in enumerate(chorales) if index % _HELD_OUT]
    return Chorales(learned, chorales[::_HELD_OUT])


def roll_of(notes: list[Note]) -> Tensor:
    """`[steps, NUM_KEYS]`: a key is held in each quarter at whose beginning it sounds."""
    roll = torch.zeros(ceil(max(stop for _, stop, _ in notes)), NUM_KEYS)
    for start, stop, pitches in notes:
        for pitch in pitches:
            roll[ceil(start) : ceil(stop), pitch - LOWEST_KEY] = 1
    return roll


def pad(rolls: list[Tensor]) -> tuple[Tensor, Tensor]:
    """All side by side, `[T, B, NUM_KEYS]`, and 1 for each step that is there, `[T, B]`."""
    return pad_sequence(rolls), pad_sequence([torch.ones(len(roll)) for roll in rolls])


def _notes(path: Any) -> list[Note]:
    """None of what has more or fewer voices."""
    from music21 import corpus

    parts = list(corpus.parse(path).parts)
    if len(parts) != _NUM_VOICES:
        return []
    notes = [note for part in parts for note in part.flatten().notes]
    return [(float(n.offset), float(n.offset + n.quarterLength), [p.midi for p in n.pitches]) for n in notes]

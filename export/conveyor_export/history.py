"""What happened during training: a loss for each update, a validation for each epoch."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Epoch:
    """The state of things when an epoch ended; counts and seconds are since the start of training."""

    num_updates: int
    num_characters: int
    validation: float
    seconds: float


@dataclass(slots=True)
class History:
    """Bits per character: `losses` of each update, on the text it learned from; `Epoch.validation` on unseen text."""

    losses: list[float] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)

    @property
    def best(self) -> Epoch | None:
        """The epoch with the lowest validation; None while none is a number."""
        numbers = (epoch for epoch in self.epochs if not math.isnan(epoch.validation))
        return min(numbers, key=lambda epoch: epoch.validation, default=None)

    @property
    def num_epochs_without_gain(self) -> int:
        """Epochs since the best one; all of them while there is none."""
        return len(self.epochs) - 1 - self.epochs.index(self.best) if self.best else len(self.epochs)

    def to_dict(self) -> dict[str, Any]:
        """The schema of `history.json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "History":
        """Reads `to_dict`'s schema."""
        return cls(list(raw["losses"]), [Epoch(**epoch) for epoch in raw["epochs"]])

    def save(self, path: Path) -> None:
        """Writes the history as JSON."""
        path.write_text(json.dumps(self.to_dict()), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "History":
        """Reads what `save` wrote.

        Raises:
            ValueError: not such a file.
        """
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not a training history: {error}") from error

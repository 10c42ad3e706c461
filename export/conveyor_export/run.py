"""One training run in its folder: epochs, early stopping, checkpoints to go on from exactly, the final report."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from conveyor_export.corpus import Split
from conveyor_export.history import Epoch, History
from conveyor_export.language_model import LanguageModel, LanguageModelConfig, load_checkpoint, save_checkpoint
from conveyor_export.learning_curve import draw_learning_curve
from conveyor_export.training import Trainer, TrainingConfig, encode_works, evaluate


@dataclass(frozen=True, slots=True)
class Report:
    """Bits per character of the best epoch's model on text that it has not learned from."""

    validation: float
    test: float
    num_epochs: int


class Run:
    """A run that is under way.

    Its folder holds `best.pt`, for `conveyor-export`; `last.pt`, to go on from; `history.json`; `learning_curve.png`.
    """

    def __init__(
        self, folder: Path, split: Split, symbols: list[str], model: LanguageModel, config: TrainingConfig
    ) -> None:
        self.folder, self.symbols, self.model, self.config = folder, symbols, model, config
        self.trainer = Trainer(model, split.training, symbols, config)
        self.validation = encode_works(split.validation, symbols)
        self.test = encode_works(split.test, symbols)
        self.history = History()
        text = "".join(work.text for works in (split.training, split.validation, split.test) for work in works)
        self.corpus_sha256 = sha256(text.encode()).hexdigest()
        self.provenance: dict[str, Any] = {
            "corpus_sha256": self.corpus_sha256,
            "training": asdict(config),
            "validation_works": [work.title for work in split.validation],
            "test_works": [work.title for work in split.test],
        }

    @property
    def is_over(self) -> bool:
        """True once all epochs are done, or `patience` of them have brought nothing."""
        done = len(self.history.epochs) >= self.config.num_epochs
        return done or self.history.num_epochs_without_gain >= self.config.patience

    def run_epoch(self, on_update: Callable[[float, int], None]) -> Epoch:
        """Trains for one epoch, validates and writes the folder's files; see `Trainer.run_epoch` for `on_update`."""
        start, losses, num_characters = time.monotonic(), [], 0

        def count(bits: float, num: int) -> None:
            nonlocal num_characters
            num_characters += num
            losses.append(bits)
            on_update(bits, num)

        self.trainer.run_epoch(count)
        validation = evaluate(self.model, self.validation)
        # Only now, so that an epoch that is cut short leaves no trace.
        self._record(losses, num_characters, validation, time.monotonic() - start)
        self._save()
        return self.history.epochs[-1]

    def report(self) -> Report:
        """Scores the best model on the test works and notes the scores in its checkpoint.

        Raises:
            ValueError: training has led to no model.
        """
        if self.history.best is None:
            raise ValueError("validation: not a number after any epoch; a lower --rate may help")
        best, _, provenance = load_checkpoint(self.folder / "best.pt")
        validation, test = evaluate(best, self.validation), evaluate(best, self.test)
        scores = {"validation": round(validation, 4), "test": round(test, 4)}
        self._save_best({**provenance, "training_bits_per_character": scores}, best)
        return Report(validation, test, len(self.history.epochs))

    def resume(self) -> None:
        """Goes back to the end of the last whole epoch.

        Raises:
            OSError: the folder holds no run.
            ValueError: it is broken, or was a run on another corpus.
        """
        state = _read_state(self.folder)
        if state["corpus_sha256"] != self.corpus_sha256:
            raise ValueError("corpus: not the one that the run was started with")
        self.trainer.load_state_dict(state["trainer"])
        self.history = History.from_dict(state["history"])

    def start_from(self, folder: Path) -> None:
        """Begins with the weights of another run's last epoch, for example to go on with other settings.

        Raises:
            OSError: the folder holds no run.
            ValueError: it is broken, or its model has other sizes.
        """
        state = _read_state(folder)
        self.trainer.start_from(state["trainer"])
        self.provenance["started_from"] = {"training": state["config"], "epochs": len(state["history"]["epochs"])}

    def _record(self, losses: list[float], num_characters: int, validation: float, seconds: float) -> None:
        before = self.history.epochs[-1] if self.history.epochs else Epoch(0, 0, 0.0, 0.0)
        self.history.losses += losses
        self.history.epochs.append(
            Epoch(
                len(self.history.losses), before.num_characters + num_characters, validation, before.seconds + seconds
            )
        )

    def _save(self) -> None:
        if self.history.num_epochs_without_gain == 0:
            self._save_best({**self.provenance, "epoch": len(self.history.epochs)}, self.model)
        state = {
            "trainer": self.trainer.state_dict(),
            "history": self.history.to_dict(),
            "model_config": asdict(self.model.config),
            "config": asdict(self.config),
            "corpus_sha256": self.corpus_sha256,
        }
        torch.save(state, self.folder / "last.pt.partial")
        (self.folder / "last.pt.partial").replace(self.folder / "last.pt")
        self.history.save(self.folder / "history.json")
        draw_learning_curve(self.history, self.folder / "learning_curve.png")

    def _save_best(self, provenance: dict[str, Any], model: LanguageModel) -> None:
        save_checkpoint(self.folder / "best.pt.partial", model, self.symbols, provenance)
        (self.folder / "best.pt.partial").replace(self.folder / "best.pt")


def read_configs(folder: Path) -> tuple[LanguageModelConfig, TrainingConfig]:
    """What the run in this folder was started with.

    Raises:
        OSError, ValueError: the folder holds no run.
    """
    state = _read_state(folder)
    return LanguageModelConfig(**state["model_config"]), TrainingConfig(**state["config"])


def _read_state(folder: Path) -> dict[str, Any]:
    path = folder / "last.pt"
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load raises a dozen kinds on a file that is not its own
        raise ValueError(f"{path}: not the state of a run") from error
    return state

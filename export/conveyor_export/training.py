"""Trains a language model by truncated backpropagation through time over parallel text streams."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from conveyor.signature import Vocabulary
from conveyor_export.corpus import Work
from conveyor_export.language_model import LanguageModel
from conveyor_export.names import Names
from conveyor_export.ranges import check_not_negative, check_positive, check_share

UNKNOWN = "\ufffd"


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How long and how hard to train. Lengths are in tokens, rates per update; `patience` is in epochs."""

    num_epochs: int = 18
    batch_size: int = 32
    window_length: int = 256
    learning_rate: float = 2e-3
    warmup_updates: int = 100
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    reset_probability: float = 0.02
    unknown_probability: float = 5e-4
    rename_share: float = 0.85
    patience: int = 3
    seed: int = 1

    def __post_init__(self) -> None:
        check_positive(self, "num_epochs", "batch_size", "window_length", "learning_rate", "clip_norm", "patience")
        check_not_negative(self, "warmup_updates", "weight_decay")
        check_share(self, "reset_probability", "unknown_probability", "rename_share")


def build_vocabulary(text: str) -> list[str]:
    """Every character of the text, sorted, after the entry that stands for a character never seen."""
    return [UNKNOWN, *sorted(set(text) - {UNKNOWN})]


def encode_works(works: list[Work], symbols: list[str]) -> list[Tensor]:
    """Token ids `[length]` int64 of each work."""
    vocabulary = Vocabulary(symbols)
    return [torch.tensor(vocabulary.encode(work.text), dtype=torch.int64) for work in works]


def shuffled_streams(works: list[Tensor], batch_size: int, rng: random.Random) -> Tensor:
    """Joins the works in random order, from a random offset, into parallel streams `[length, B]`."""
    joined = torch.cat(rng.sample(works, len(works)))
    joined = joined.roll(rng.randrange(len(joined)))
    length = len(joined) // batch_size
    return joined[: length * batch_size].view(batch_size, length).t().contiguous()


def windows(streams: Tensor, length: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Consecutive (inputs, targets) pairs `[length, B]`, targets one step ahead."""
    for start in range(0, len(streams) - 1, length):
        stop = min(start + length, len(streams) - 1)
        yield streams[start:stop], streams[start + 1 : stop + 1]


@torch.no_grad()
def evaluate(model: LanguageModel, works: list[Tensor], window_length: int = 512) -> float:
    """Bits per character of the works, each read once from the initial state, its first character unscored."""
    was_training, nats = model.training, 0.0
    model.eval()
    lengths = torch.tensor([len(work) for work in works])
    padded = torch.stack([nn.functional.pad(work, (0, int(lengths.max()) - len(work))) for work in works], dim=1)
    states = model.initial_states(len(works))
    for number, (inputs, targets) in enumerate(windows(padded, window_length)):
        outputs, states = model({"tokens": inputs}, states)
        losses = nn.functional.cross_entropy(outputs["logits"].transpose(1, 2), targets, reduction="none")
        steps = torch.arange(len(targets))[:, None] + number * window_length + 1
        nats += float(losses[steps < lengths].sum())
    model.train(was_training)
    return nats / int((lengths - 1).sum()) / math.log(2)


class Trainer:
    """Owns the optimiser, its schedule and all random numbers; one call of `run_epoch` reads the works once.

    Raises:
        ValueError: the works are too short for one window of a batch.
    """

    def __init__(self, model: LanguageModel, works: list[Work], symbols: list[str], config: TrainingConfig) -> None:
        self.model, self.works, self.symbols, self.config = model, works, symbols, config
        self.signature = model.signature()
        self.names = Names(works)
        self.rng = random.Random(config.seed)  # noqa: S311  # a repeatable shuffle, not a secret
        self.stream_length = sum(len(work.text) for work in works) // config.batch_size - 1
        if self.stream_length < 1:
            raise ValueError(f"corpus: too short for a batch of {config.batch_size} streams")
        self.updates_per_epoch = math.ceil(self.stream_length / config.window_length)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate_factor)

    def run_epoch(self, on_update: Callable[[float, int], None]) -> None:
        """Calls `on_update` after each window with its bits per character and its number of characters."""
        self.model.train()
        states = self.model.initial_states(self.config.batch_size)
        streams = shuffled_streams(encode_works(self._rename(), self.symbols), self.config.batch_size, self.rng)
        for inputs, targets in windows(streams, self.config.window_length):
            states = self._reset_some(states)
            nats, states = self._update(self._hide_some(inputs), targets, states)
            on_update(nats / math.log(2), inputs.numel())

    def state_dict(self) -> dict[str, Any]:
        """All that decides how training goes on from here, random numbers included."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "shuffle": self.rng.getstate(),
            "torch_random": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to where `state_dict` was called."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        version, numbers, gauss = state["shuffle"]
        self.rng.setstate((version, tuple(numbers), gauss))
        torch.set_rng_state(state["torch_random"])

    def start_from(self, state: dict[str, Any]) -> None:
        """Takes over the weights and the optimiser's moments of another trainer's `state_dict`, not its schedule.

        Raises:
            ValueError: its model has other sizes.
        """
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise ValueError("start-from: a model of other sizes") from error
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": groups})

    def _rate_factor(self, update: int) -> float:
        """Linear warm-up, then half a cosine down to one hundredth."""
        if update < self.config.warmup_updates:
            return (update + 1) / self.config.warmup_updates
        done = min(1.0, update / (self.updates_per_epoch * self.config.num_epochs))
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))

    def _rename(self) -> list[Work]:
        # The names of a single text are its own, and a model of it should know them.
        if len(self.works) == 1:
            return self.works
        return [self.names.rename(work, self.config.rename_share, self.rng) for work in self.works]

    def _reset_some(self, states: dict[str, Tensor]) -> dict[str, Tensor]:
        # A served session starts from zeros, so the model must meet zeros more often than once an epoch.
        kept = torch.rand(self.config.batch_size) >= self.config.reset_probability
        return {
            spec.name: _keep(states[spec.name].detach(), kept, spec.axis.batch or 0) for spec in self.signature.states
        }

    def _hide_some(self, inputs: Tensor) -> Tensor:
        # Without this the unknown token's embedding would never be trained.
        return inputs.masked_fill(torch.rand(inputs.shape) < self.config.unknown_probability, 0)

    def _update(self, inputs: Tensor, targets: Tensor, states: dict[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
        # bfloat16 runs on the matrix units of recent CPUs, about three times as fast as float32 there.
        with torch.autocast("cpu", torch.bfloat16):
            outputs, new_states = self.model({"tokens": inputs}, states)
        loss = nn.functional.cross_entropy(outputs["logits"].float().flatten(0, 1), targets.flatten())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        return float(loss.detach()), {
            name: state.float() if state.is_floating_point() else state for name, state in new_states.items()
        }


def _keep(state: Tensor, kept: Tensor, axis: int) -> Tensor:
    """The state with zeros for the sequences that are not kept."""
    shape = [-1 if place == axis else 1 for place in range(state.dim())]
    return torch.where(kept.view(shape), state, torch.zeros_like(state))

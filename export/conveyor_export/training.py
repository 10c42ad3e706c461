"""Trains a language model by truncated backpropagation through time over parallel text streams."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from conveyor_export.corpus import Work
from conveyor_export.language_model import LanguageModel

UNKNOWN = "\ufffd"


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How long and how hard to train. Lengths are in tokens, rates per update."""

    num_epochs: int = 7
    batch_size: int = 64
    window_length: int = 128
    learning_rate: float = 2e-3
    warmup_updates: int = 100
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    reset_probability: float = 0.02
    unknown_probability: float = 5e-4
    patience: int = 3
    seed: int = 1


def build_vocabulary(text: str) -> list[str]:
    """Every character of the text, sorted, after the entry that stands for a character never seen."""
    return [UNKNOWN, *sorted(set(text))]


def encode(text: str, vocabulary: list[str]) -> Tensor:
    """Token ids `[len(text)]` int64; characters outside the vocabulary become token 0."""
    ids = {symbol: index for index, symbol in enumerate(vocabulary)}
    return torch.tensor([ids.get(symbol, 0) for symbol in text], dtype=torch.int64)


def shuffled_streams(works: list[Tensor], config: TrainingConfig, rng: random.Random) -> Tensor:
    """Joins the works in random order, from a random offset, into parallel streams `[length, B]`."""
    joined = torch.cat(rng.sample(works, len(works)))
    joined = joined.roll(rng.randrange(len(joined)))
    length = len(joined) // config.batch_size
    return joined[: length * config.batch_size].view(config.batch_size, length).t().contiguous()


def windows(streams: Tensor, length: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Consecutive (inputs, targets) pairs `[length, B]`, targets one step ahead."""
    for start in range(0, len(streams) - 1, length):
        stop = min(start + length, len(streams) - 1)
        yield streams[start:stop], streams[start + 1 : stop + 1]


@torch.no_grad()
def bits_per_character(model: LanguageModel, works: list[Tensor], window_length: int = 512) -> float:
    """Mean -log2 p(token) over the works, each read once from the initial state, its first character unscored."""
    model.eval()
    nats, count = 0.0, 0
    length = max(map(len, works))
    lengths = torch.tensor([len(work) for work in works])
    padded = torch.stack([nn.functional.pad(work, (0, length - len(work))) for work in works], dim=1)
    states = model.initial_states(len(works))
    for start, (inputs, targets) in zip(
        range(0, length - 1, window_length), windows(padded, window_length), strict=True
    ):
        outputs, states = model({"tokens": inputs}, states)
        losses = nn.functional.cross_entropy(outputs["logits"].transpose(1, 2), targets, reduction="none")
        steps = torch.arange(start + 1, start + 1 + len(targets))[:, None]
        valid = steps < lengths
        nats += float(losses[valid].sum())
        count += int(valid.sum())
    model.train()
    return nats / count / math.log(2)


class Trainer:
    """Owns the optimiser and its schedule; one call of `run_epoch` reads the training works once."""

    def __init__(self, model: LanguageModel, works: list[Tensor], config: TrainingConfig) -> None:
        self.model, self.works, self.config = model, works, config
        self.rng = random.Random(config.seed)  # noqa: S311  # a repeatable shuffle, not a secret
        self.optimizer = torch.optim.AdamW(
            model.parameters(), config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
        )
        self.updates_per_epoch = math.ceil((sum(map(len, works)) // config.batch_size - 1) / config.window_length)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate_factor)

    def _rate_factor(self, update: int) -> float:
        """Linear warm-up, then half a cosine down to one hundredth."""
        if update < self.config.warmup_updates:
            return (update + 1) / self.config.warmup_updates
        done = min(1.0, update / (self.updates_per_epoch * self.config.num_epochs))
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))

    def run_epoch(self, on_update: Callable[[float], None]) -> None:
        """Reads every training work once, calling `on_update` with each window's bits per character."""
        self.model.train()
        states = self.model.initial_states(self.config.batch_size)
        for inputs, targets in windows(shuffled_streams(self.works, self.config, self.rng), self.config.window_length):
            states = self._reset_some(states)
            loss, states = self._update(self._hide_some(inputs), targets, states)
            on_update(loss / math.log(2))

    def _reset_some(self, states: dict[str, Tensor]) -> dict[str, Tensor]:
        # A served session starts from zeros, so the model must meet zeros more often than once an epoch.
        kept = torch.rand(self.config.batch_size, 1) >= self.config.reset_probability
        return {name: state.detach() * kept for name, state in states.items()}

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
        return float(loss.detach()), {name: state.float() for name, state in new_states.items()}


def encode_works(works: list[Work], vocabulary: list[str]) -> list[Tensor]:
    return [encode(work.text, vocabulary) for work in works]

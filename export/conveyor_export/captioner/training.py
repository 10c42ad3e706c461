"""Teaches the captioner to spell."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from conveyor_export.attention.decoder import BOUNDARY
from conveyor_export.captioner.model import Captioner
from conveyor_export.digits import MOST_LETTERS, SIDE, Digits, spell

NUM_EPOCHS = 100
_BATCH_SIZE = 50
_HIGHEST_RATE = 5e-3
_CLIP_NORM = 1.0
_NOTHING = -1  # what comes after the end of a shorter name


def train(captioner: Captioner, digits: Digits, num_epochs: int, show: Callable[[float], object]) -> None:
    """Lowers the cross-entropy of the letters; `show` is given the loss of each update, in nats a letter."""
    optimiser = torch.optim.Adam(captioner.parameters())
    num_updates = num_epochs * -(-len(digits) // _BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _HIGHEST_RATE, total_steps=num_updates)
    captioner.train()
    for _ in range(num_epochs):
        for batch in torch.split(torch.randperm(len(digits)), _BATCH_SIZE):
            loss = loss_of(captioner, digits[batch])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(captioner.parameters(), _CLIP_NORM)
            optimiser.step()
            schedule.step()
            show(loss.item())
    captioner.eval()


def loss_of(captioner: Captioner, digits: Digits) -> Tensor:
    """Nats a letter, of images moved by up to a pixel."""
    targets = _targets(digits)
    before = torch.full_like(targets[:1], BOUNDARY)
    tokens = torch.cat([before, targets[:-1].clamp(min=0)])
    opened = captioner.initialise({"image": _moved(digits.images)})
    outputs, _ = captioner({"tokens": tokens, **opened}, opened)
    return nn.functional.cross_entropy(outputs["logits"].flatten(0, 1), targets.flatten(), ignore_index=_NOTHING)


def _targets(digits: Digits) -> Tensor:
    """The names' tokens and ends, `[letters, B]`."""
    names = [torch.tensor(spell(label)) for label in digits.labels.tolist()]
    padded = [nn.functional.pad(name, (0, MOST_LETTERS + 1 - len(name)), value=_NOTHING) for name in names]
    return torch.stack(padded, 1)


def _moved(images_BSS: Tensor) -> Tensor:
    padded, side = nn.functional.pad(images_BSS, (1, 1, 1, 1)), torch.arange(SIDE)
    down, right = (torch.randint(3, (len(images_BSS), 1)) + side for _ in range(2))
    return padded[torch.arange(len(images_BSS))[:, None, None], down[:, :, None], right[:, None]]

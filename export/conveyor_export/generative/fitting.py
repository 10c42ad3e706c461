"""Training of the generative models: Adam, up a bound."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import trange


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how hard to train; the rate falls to a hundredth of its first value along half a cosine."""

    num_updates: int
    learning_rate: float
    clip_norm: float


def fit(module: nn.Module, bound: Callable[[], Tensor], plan: Plan) -> None:
    """Raises `bound()`, a scalar in nats: of examples that it draws anew at each call."""
    optimiser = torch.optim.Adam(module.parameters(), plan.learning_rate)
    least = plan.learning_rate / 100
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, plan.num_updates, least)
    bar, smooth = trange(plan.num_updates, unit=" updates", disable=None), None
    module.train()
    for _ in bar:
        value = bound()
        optimiser.zero_grad()
        (-value).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), plan.clip_norm)
        optimiser.step()
        schedule.step()
        smooth = value.item() if smooth is None else 0.98 * smooth + 0.02 * value.item()
        bar.set_postfix_str(f"bound {smooth:.3f} nats", refresh=False)
    module.eval()

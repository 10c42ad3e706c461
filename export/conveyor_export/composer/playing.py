"""What a client of the served models asks for: how likely a chorale is, or a new one; a step is a quarter note."""

import asyncio

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from conveyor.client import Client

Array = NDArray[np.float32]


async def score(client: Client, model: str, rolls: list[Tensor]) -> float:
    """The bound on the likelihood of all, in nats a step: of one draw of the latent variables."""
    bounds = await asyncio.gather(*(_bound(client, model, roll) for roll in rolls))
    return sum(bounds) / sum(len(roll) for roll in rolls)


async def compose(client: Client, model: str, num_rolls: int, num_steps: int) -> list[Array]:
    """Rolls `[T, NUM_KEYS]` of sessions whose seeds are 0, 1, ... Nothing is sent but the number of steps."""
    return list(await asyncio.gather(*(_compose(client, model, seed, num_steps) for seed in range(num_rolls))))


async def _bound(client: Client, model: str, roll: Tensor) -> float:
    async with client.open(model, seed=0) as session:
        terms = await session.step(roll.numpy(), outputs=["log_likelihood", "kl"])
    log_likelihood, kl = (terms[name].numpy().astype(np.float64) for name in ("log_likelihood", "kl"))
    return float((log_likelihood - kl).sum())


async def _compose(client: Client, model: str, seed: int, num_steps: int) -> Array:
    async with client.open(model, seed=seed) as session:
        answer = await session.step(num_steps, outputs=["x"])
    return answer["x"].numpy().astype(np.float32)

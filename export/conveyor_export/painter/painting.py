"""What a client of the served models asks for: a digit, or an image painted anew; a step is a glimpse."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conveyor.client import Client
from conveyor_export.digits import NAMES, Digits
from conveyor_export.generative.window import WINDOW_SIZE
from conveyor_export.painter.training import NUM_GLIMPSES

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Glimpses:
    """The canvas after each glimpse, `[T, 8, 8]`, and the windows in which it was written and read, `[T, 5]`."""

    pictures: Array
    windows: Array
    read_windows: Array


async def paint_digit(client: Client, digit: int, seed: int) -> Glimpses:
    """A session that is told the digit. Each seed paints another."""
    async with client.open("paint", seed=seed, contexts={"label": _one_hot(digit)}) as session:
        steps = [await session.step(1, outputs=["picture", "window"]) for _ in range(NUM_GLIMPSES)]
    nothing = np.zeros((0, WINDOW_SIZE), np.float32)
    return Glimpses(_join(steps, "picture"), _join(steps, "window"), nothing)


async def look_at(client: Client, image: Array, digit: int) -> Glimpses:
    """A session that is given an image."""
    async with client.open("look", seed=0, contexts={"image": image, "label": _one_hot(digit)}) as session:
        steps = [await session.step(1, outputs=["picture", "window", "read_window"]) for _ in range(NUM_GLIMPSES)]
    return Glimpses(_join(steps, "picture"), _join(steps, "window"), _join(steps, "read_window"))


async def paint_all(client: Client, num_seeds: int) -> list[list[Glimpses]]:
    """Each digit with each seed, all at once."""
    rows = [[paint_digit(client, digit, seed) for seed in range(num_seeds)] for digit in range(len(NAMES))]
    return [list(row) for row in await asyncio.gather(*(asyncio.gather(*row) for row in rows))]


async def look_at_all(client: Client, digits: Digits) -> list[Glimpses]:
    """Each image, all at once."""
    pairs = zip(digits.images.numpy(), digits.labels.tolist(), strict=True)
    return list(await asyncio.gather(*(look_at(client, *pair) for pair in pairs)))


def _one_hot(digit: int) -> list[float]:
    return [float(digit == each) for each in range(len(NAMES))]


def _join(steps: Sequence[Any], name: str) -> Array:
    return np.concatenate([step[name].numpy() for step in steps])

"""Has a server read images: a session for each, opened with the image, stepped letter by letter."""

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conveyor.client import Client
from conveyor_export.attention.decoder import BOUNDARY
from conveyor_export.digits import MOST_LETTERS, SIDE, SYMBOLS, Digits


@dataclass(frozen=True, slots=True, eq=False)
class Caption:
    """The name that was read. `looks` `[letters + 1, 8, 8]` is the attention of each letter and of the end."""

    name: str
    looks: NDArray[np.float32]


async def read_images(client: Client, model: str, digits: Digits) -> list[Caption]:
    """A caption for each image, in sessions that run at the same time."""
    return await asyncio.gather(*(_read(client, model, image) for image in digits.images.numpy()))


async def _read(client: Client, model: str, image: NDArray[np.float32]) -> Caption:
    letters, token = "", BOUNDARY
    looks: list[NDArray[Any]] = []
    async with client.open(model, contexts={"image": image}) as session:
        while len(looks) <= MOST_LETTERS:
            answer = await session.step([token], outputs=["attention"], top_k=1)
            looks.append(answer["attention"].numpy().reshape(SIDE, SIDE))
            token = answer.top_tokens[0][0].token
            if token == BOUNDARY:
                break
            letters += SYMBOLS[token]
    return Caption(letters, np.stack(looks))

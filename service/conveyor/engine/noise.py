"""The random numbers that a model takes at each step: they depend on the session's seed and the step's place alone."""

from math import prod

import numpy as np
from numpy.typing import NDArray

from conveyor.engine.sampler import INCREMENT, mix, unit_interval
from conveyor.signature import NoiseSpec


def draw_noise(
    spec: NoiseSpec, number: int, seeds: NDArray[np.uint64], first_steps: NDArray[np.uint64], num_steps: int
) -> NDArray[np.float32]:
    """The numbers of `num_steps` steps from `first_steps` on: `[T, B, *shape]`.

    `number` is the noise's place in the signature: two of one session have nothing in common. A step's number is how
    many have run before it, so a retry, another batch and another server draw the same.
    """
    stream = np.uint64((number + 2) * int(INCREMENT) % 2**64)  # tokens are drawn with the first
    streams = mix(seeds + stream)
    steps = first_steps + np.arange(1, num_steps + 1, dtype=np.uint64)[:, np.newaxis]
    places = np.arange(1, prod(spec.shape) + 1, dtype=np.uint64)
    bits = mix(mix(streams + steps * INCREMENT)[..., np.newaxis] + places * INCREMENT)
    drawn = _normal(bits) if spec.distribution == "normal" else unit_interval(bits)
    return drawn.reshape(*steps.shape[:1], len(seeds), *spec.shape)


def _normal(bits: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Box and Muller (1958), from the two halves of each word."""
    radius = np.sqrt(-2 * np.log(((bits >> np.uint64(32)) + np.uint64(1)) * 2.0**-32))
    angle = (bits & np.uint64(0xFFFFFFFF)) * (2 * np.pi * 2.0**-32)
    drawn: NDArray[np.float32] = (radius * np.cos(angle)).astype(np.float32)
    return drawn

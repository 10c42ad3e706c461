"""Random numbers that depend on (seed, position) alone, so that a text does not depend on the batch it was made in."""

import numpy as np
from numpy.typing import NDArray

# Steele, Lea and Flood (2014): SplitMix64's increment and finaliser.
INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


def uniforms(seeds: NDArray[np.uint64], positions: NDArray[np.uint64]) -> NDArray[np.float32]:
    """One number in [0, 1) for each (seed, position): `[N]`, multiples of 2**-24."""
    # SplitMix64's number at this position of the stream that starts at the mixed seed: seed and position must not be
    # treated alike, or swapping them would give the same number.
    bits = mix(mix(seeds + INCREMENT) + (positions + np.uint64(1)) * INCREMENT)
    return unit_interval(bits)


def unit_interval(bits: NDArray[np.uint64]) -> NDArray[np.float32]:
    """A multiple of 2**-24 in [0, 1) for each word."""
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


def mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: a word for each word, with no visible relation between the two."""
    value = (value ^ (value >> _SHIFTS[0])) * _MULTIPLIERS[0]
    value = (value ^ (value >> _SHIFTS[1])) * _MULTIPLIERS[1]
    return value ^ (value >> _SHIFTS[2])

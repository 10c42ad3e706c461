"""What a measurement gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np


@dataclass(frozen=True, slots=True)
class Measurement:
    """Steps a second over all sessions, and the time of one in seconds where one is in flight at a time."""

    rate: float
    p50: float
    p99: float

    @classmethod
    def of(cls, seconds: float, num_steps: int, times: Sequence[float]) -> "Measurement":
        """Of so many steps in so much time; `times` are those of single requests or runs."""
        p50, p99 = np.percentile(times, [50, 99])
        return cls(num_steps / seconds, float(p50), float(p99))


class Watch:
    """Counts the steps of `seconds` after a short warm-up; of more, if not one has ended by then."""

    def __init__(self, seconds: float) -> None:
        self._start = perf_counter() + min(0.3, seconds / 4)
        self._end = self._last = self._start + seconds
        self._num_steps = 0
        self._times: list[float] = []

    def lap(self, begun: float, num_steps: int = 1) -> bool:
        """Notes what began at `begun` and has ended now; False once the time is up."""
        now = perf_counter()
        if now >= self._start and (now <= self._end or not self._times):
            self._last = max(self._end, now)
            self._num_steps += num_steps
            self._times.append(now - begun)
        return now < self._end or not self._times

    def measurement(self) -> Measurement:
        """What was noted."""
        return Measurement.of(self._last - self._start, self._num_steps, self._times)

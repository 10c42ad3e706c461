"""A histogram that takes a whole batch of values at once; Prometheus's own would cost more than the steps it counts."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray


class Histogram:
    """Counts values between bounds. Observed on one thread; another may read it."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = [*bounds, float("inf")]
        self._edges = np.asarray(bounds)
        self._counts = [0] * len(self._bounds)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Takes one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def observe_all(self, values: NDArray[np.float64]) -> None:
        """Takes many values."""
        if len(values) == 1:
            self.observe(float(values[0]))
        elif len(values):
            places = np.searchsorted(self._edges, values, side="left")
            for place, count in enumerate(np.bincount(places, minlength=len(self._counts)).tolist()):
                self._counts[place] += count
            self.sum += float(values.sum())

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bound and number of values up to it, for each bound, as Prometheus has them."""
        totals = accumulate(self._counts)
        return [
            (str(bound) if bound != float("inf") else "+Inf", float(total))
            for bound, total in zip(self._bounds, totals, strict=True)
        ]

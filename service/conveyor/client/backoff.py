"""How long to wait before the next attempt."""

from random import uniform

FIRST_SECONDS = 0.05
LONGEST_SECONDS = 2.0


class Backoff:
    """Delays that double, with jitter so that clients which failed together do not come back together."""

    def __init__(self) -> None:
        self._delay = FIRST_SECONDS

    def next(self, retry_after: float | None = None) -> float:
        """Seconds to wait; never less than `retry_after`, the server's own advice."""
        delay, self._delay = self._delay, min(self._delay * 2, LONGEST_SECONDS)
        if retry_after is not None:
            return retry_after * uniform(1.0, 1.2)  # noqa: S311 - jitter, not a secret
        return delay * uniform(0.5, 1.0)  # noqa: S311

    def reset(self) -> None:
        """Starts over, after a success."""
        self._delay = FIRST_SECONDS

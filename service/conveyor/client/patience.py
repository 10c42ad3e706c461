"""How long a server may be silent before it is taken for paused: that shows as no error."""

# Each step in flight may take a server so long, beside what any answer may.
SECONDS_PER_STEP = 0.005


class Patience:
    """A limit that doubles with each silence, so that what only takes long is done in the end."""

    def __init__(self, seconds: float = 2.0) -> None:
        self._first = self._seconds = seconds

    def limit(self, num_steps: int = 0) -> float:
        """Seconds to wait for a message while so many steps are in flight."""
        return self._seconds + num_steps * SECONDS_PER_STEP

    def lose(self) -> None:
        """Takes note of a silence that was too long."""
        self._seconds *= 2

    def reset(self) -> None:
        """Starts over, after a message."""
        self._seconds = self._first

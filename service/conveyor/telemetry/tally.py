"""How many, and how long together."""


class Tally:
    """Counts things that take time. Used on one thread."""

    __slots__ = ("count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """Takes `count` things that took so long together."""
        self.count += count
        self.seconds += seconds

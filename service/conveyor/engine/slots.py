"""Which rows of the arena are free. Row 0 belongs to nobody: padding reads it."""


class SlotPool:
    """Hands out slots 1 to `num_slots`. A slot's content is undefined until it is written."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free = list(range(num_slots, 0, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def take(self) -> int:
        """A free slot.

        Raises:
            IndexError: none is free; ask `num_free` first.
        """
        return self._free.pop()

    def take_many(self, count: int) -> list[int]:
        """So many free slots; ask `num_free` first."""
        left = len(self._free) - count
        taken = self._free[left:]
        del self._free[left:]
        return taken

    def give(self, slot: int) -> None:
        """Frees a slot that was taken."""
        self._free.append(slot)

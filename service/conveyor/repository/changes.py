"""Which models are to be brought to what their folders say. Pure."""

from collections.abc import Mapping

from conveyor.repository.folder import ModelFolder


class Changes:
    """Compares what is found at each look with what was found at the one before, and with what has been applied."""

    def __init__(self) -> None:
        self._seen: Mapping[str, ModelFolder] = {}
        self._applied: dict[str, ModelFolder] = {}
        self._again: set[str] = set()

    def due(self, found: Mapping[str, ModelFolder]) -> list[str]:
        """The models that have changed, or are gone, and have been still since the last look.

        What has not been still may be on its way here.
        """
        still = [name for name in {*found, *self._applied} if found.get(name) == self._seen.get(name)]
        self._seen = found
        return sorted(name for name in still if name in self._again or found.get(name) != self._applied.get(name))

    def apply(self, name: str, folder: ModelFolder | None) -> None:
        """Takes note of what a model is being brought to; None if it is gone."""
        self._again.discard(name)
        self._applied.pop(name, None)
        if folder is not None:
            self._applied[name] = folder

    def try_again(self, name: str) -> None:
        """Makes a model due as it is."""
        self._again.add(name)

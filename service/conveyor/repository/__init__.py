"""The folder of models that a server loads."""

from conveyor.repository.folder import Entry, find_models

__all__ = ["Entry", "find_models"]

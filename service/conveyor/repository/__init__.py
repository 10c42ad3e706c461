"""The folder of models that a server serves, and what of it is loaded."""

from conveyor.repository.repository import Repository

__all__ = ["Repository"]

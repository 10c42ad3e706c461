"""Conveyor: stateful serving of recurrent sequence models. Import `conveyor.client` to talk to a server."""

__version__ = "0.1.0"

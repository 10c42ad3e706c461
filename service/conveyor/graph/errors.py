"""What is wrong with a model, for the person who brought it."""


class ModelError(ValueError):
    """The model cannot be served. The message is one readable sentence."""

"""Refuses a setting that is out of its range, by its name. Each function raises ValueError."""

import math
from collections.abc import Callable


def check_positive(settings: object, *names: str) -> None:
    """Numbers above zero."""
    _check(settings, names, "a positive number", lambda value: 0 < value < math.inf)


def check_not_negative(settings: object, *names: str) -> None:
    """Numbers from zero on."""
    _check(settings, names, "0 or more", lambda value: 0 <= value < math.inf)


def check_share(settings: object, *names: str) -> None:
    """Shares that may be the whole."""
    _check(settings, names, "a share from 0 to 1", lambda value: 0 <= value <= 1)


def check_dropout(settings: object, *names: str) -> None:
    """Shares that leave something: what is kept is scaled by its inverse."""
    _check(settings, names, "a share from 0 to less than 1", lambda value: 0 <= value < 1)


def _check(settings: object, names: tuple[str, ...], expected: str, is_within: Callable[[float], bool]) -> None:
    for name in names:
        # A NaN compares false with everything, and so is within no range.
        if not is_within(value := getattr(settings, name)):
            raise ValueError(f"{name}: expected {expected}, got {value}")

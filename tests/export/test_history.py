"""Which epoch counts as the best."""

import math

import pytest

from conveyor_export.history import Epoch, History


def history_of(*validations: float) -> History:
    """One epoch for each validation."""
    return History(epochs=[Epoch(number, number, value, 0.0) for number, value in enumerate(validations)])


@pytest.mark.parametrize(
    ("validations", "best", "num_without_gain"),
    [
        ((), None, 0),
        ((3.0, 2.0, 2.5), 2.0, 1),
        ((math.nan, 3.0), 3.0, 0),
        ((3.0, math.nan, 2.0, math.nan), 2.0, 1),
        ((math.nan, math.nan), None, 2),
    ],
)
def test_best_epoch_is_a_number(validations: tuple[float, ...], best: float | None, num_without_gain: int) -> None:
    """The lowest validation is the best; one that is no number never is, and brings no gain."""
    history = history_of(*validations)

    assert (history.best.validation if history.best else None) == best
    assert history.num_epochs_without_gain == num_without_gain

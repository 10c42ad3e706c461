"""Which rows of the arena are free."""

import pytest

from conveyor.engine.slots import SlotPool


def test_slots_are_handed_out_once() -> None:
    """Every slot from 1 on is handed out once, alone or with others, until it is given back; slot 0 never is."""
    pool = SlotPool(5)
    taken = [pool.take(), *pool.take_many(3), pool.take()]

    assert sorted(taken) == [1, 2, 3, 4, 5]
    assert pool.num_free == 0
    with pytest.raises(IndexError):
        pool.take()
    pool.give(3)
    assert pool.take_many(1) == [3]


def test_taking_none_takes_none() -> None:
    """No slots are taken when none are asked for."""
    pool = SlotPool(3)

    assert pool.take_many(0) == []
    assert pool.num_free == 3

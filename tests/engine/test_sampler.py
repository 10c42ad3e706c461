"""Random numbers that depend on seed and position alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from conveyor.engine.sampler import uniforms

words = st.integers(0, 2**64 - 1)


def numbers(seeds: object, positions: object) -> np.ndarray:
    return uniforms(*np.broadcast_arrays(np.array(seeds, np.uint64), np.array(positions, np.uint64)))


@given(st.lists(st.tuples(words, words), min_size=1, max_size=20))
def test_they_are_in_range(keys: list[tuple[int, int]]) -> None:
    """Every number is a float32 of at least 0 and below 1, for the largest keys too."""
    got = numbers(*zip(*keys, strict=True))

    assert got.dtype == np.float32
    assert (got >= 0).all()
    assert (got < 1).all()


@given(st.lists(st.tuples(words, words), min_size=1, max_size=20), st.randoms())
def test_they_do_not_depend_on_what_they_are_drawn_with(keys: list[tuple[int, int]], random: object) -> None:
    """A key gives the same number alone as among others, in whatever order."""
    together = dict(zip(keys, numbers(*zip(*keys, strict=True)), strict=True))
    random.shuffle(keys)  # type: ignore[attr-defined]

    for key in keys:
        assert numbers([key[0]], [key[1]])[0] == together[key]


def test_they_are_uniform() -> None:
    """Over positions of one seed, and over seeds at one position, numbers spread evenly and are not correlated."""
    for got in (numbers(7, np.arange(100_000)), numbers(np.arange(100_000), 7)):
        counts, _ = np.histogram(got, 50, (0, 1))
        assert abs(counts - 2000).max() < 5 * np.sqrt(2000)
        assert abs(np.corrcoef(got[:-1], got[1:])[0, 1]) < 0.02


def test_seed_and_position_are_different_things() -> None:
    """Neighbouring seeds and positions share no numbers, nor do keys whose sums or parts are swapped."""
    grid = numbers(np.arange(200)[:, None], np.arange(200)[None, :])

    assert len(np.unique(grid)) > 39_900
    assert np.mean(grid == grid.T) < 0.01  # its diagonal, and hardly any more
    assert (np.diag(grid) != 0).all()


def test_they_never_change() -> None:
    """The same seed gives the same text in every version: these numbers are fixed."""
    got = numbers([0, 0, 1, 2**64 - 1, 1234], [0, 1, 0, 2**64 - 1, 5678])

    assert (got * 2**24).astype(int).tolist() == [10946269, 11764387, 6177195, 4476952, 11639501]

"""The noise of a step depends on seed and place alone."""

import numpy as np
import pytest

from conveyor.engine.noise import draw_noise
from conveyor.engine.sampler import uniforms
from conveyor.signature import Axis, NoiseSpec

STEPS = Axis(batch=1, time=0)
NORMAL = NoiseSpec("eps", "float32", (3, 2), STEPS)
UNIFORM = NoiseSpec("u", "float32", (), STEPS, distribution="uniform")


def draw(spec: NoiseSpec, seeds: list[int], first_steps: list[int], num_steps: int, number: int = 0) -> np.ndarray:
    return draw_noise(spec, number, np.array(seeds, np.uint64), np.array(first_steps, np.uint64), num_steps)


def test_batch_and_chunks_do_not_matter() -> None:
    """A session's steps are the same alone and beside others, in one stretch and in several."""
    together = draw(NORMAL, [5, 2**64 - 1, 0], [0, 7, 3], 6)

    assert together.shape == (6, 3, 3, 2)
    assert together.dtype == np.float32
    for column, (seed, first) in enumerate([(5, 0), (2**64 - 1, 7), (0, 3)]):
        parts = [draw(NORMAL, [seed], [first], 2), draw(NORMAL, [seed], [first + 2], 4)]
        np.testing.assert_array_equal(np.concatenate(parts)[:, 0], together[:, column])


@pytest.mark.parametrize(
    ("spec", "mean", "deviation"), [(NORMAL, 0, 1), (UNIFORM, 0.5, 12**-0.5)], ids=["normal", "uniform"]
)
def test_the_numbers_are_spread_as_they_should(spec: NoiseSpec, mean: float, deviation: float) -> None:
    """Mean, deviation, and the correlation of neighbouring steps, seeds and elements are those of independent draws."""
    numbers = draw(spec, list(range(50)), [0] * 50, 400).reshape(400, 50, -1)
    error = 5 / numbers.size**0.5

    assert numbers.mean() == pytest.approx(mean, abs=error)
    assert numbers.std() == pytest.approx(deviation, abs=error)
    centred = (numbers - mean) / deviation
    for axis in range(numbers.ndim):
        if numbers.shape[axis] > 1:
            neighbours = np.roll(centred, 1, axis) * centred
            assert abs(neighbours.mean()) < 2 * error


def test_normal_numbers_have_the_tails_of_a_normal_distribution() -> None:
    """About as many lie beyond one, two and three deviations as should; all are finite."""
    numbers = np.abs(draw(NORMAL, list(range(100)), [0] * 100, 500)).ravel()

    assert np.isfinite(numbers).all()
    for bound, share in ((1, 0.3173), (2, 0.0455), (3, 0.0027)):
        assert (numbers > bound).mean() == pytest.approx(share, rel=0.06)


def test_uniform_numbers_are_at_least_0_and_below_1() -> None:
    """1 itself never comes: it would be beyond the last of what is chosen from."""
    numbers = draw(UNIFORM, list(range(100)), [0] * 100, 1000)

    assert numbers.min() >= 0
    assert numbers.max() < 1


def test_noises_and_token_draws_have_nothing_in_common() -> None:
    """Two noises of one model, and what its tokens are drawn with, are different numbers."""
    places = np.arange(1000, dtype=np.uint64)
    tokens = uniforms(np.full(1000, 7, np.uint64), places)
    first, second = (draw(UNIFORM, [7], [0], 1000, number)[:, 0] for number in (0, 1))

    for one, other in ((tokens, first), (tokens, second), (first, second)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.15

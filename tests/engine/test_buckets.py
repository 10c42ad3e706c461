"""Padding to fixed batch sizes."""

import numpy as np
import pytest

from conveyor.engine.buckets import bucket_of, bucket_sizes, padded_arrays
from conveyor.engine.feeds import Feeds
from conveyor.signature import Axis, OutputSpec, Signature, StateSpec, TensorSpec

SIGNATURE = Signature(
    inputs=(TensorSpec("tokens", "int64", (), Axis(batch=1, time=0)),),
    states=(StateSpec("h", "float32", (4,), Axis(batch=0), output="h_out"),),
    outputs=(OutputSpec("y", "float32", (2,), Axis(batch=1, time=0)),),
)


@pytest.mark.parametrize(("max_batch", "sizes"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))])
def test_sizes_are_powers_of_two_up_to_the_largest_batch(max_batch: int, sizes: tuple[int, ...]) -> None:
    """The largest batch is a size of its own, whatever it is."""
    assert sizes == bucket_sizes(max_batch)


def test_a_batch_takes_the_smallest_size_that_holds_it() -> None:
    """A batch that fits exactly is not padded."""
    assert [bucket_of(count, (1, 2, 4, 6)) for count in range(1, 7)] == [1, 2, 4, 4, 6, 6]


def test_padding_reads_slot_0_and_writes_slots_of_its_own() -> None:
    """No two rows write one slot, no padding touches a session's slot, and no length is 0."""
    feeds = Feeds(
        num_steps=1,
        inputs={"tokens": np.array([[7, 8, 9]])},
        lengths=np.ones(3, np.int32),
        read_slots=np.array([5, 6, 7]),
        write_slots=np.array([1, 2, 3]),
    )

    arrays = padded_arrays(feeds, SIGNATURE, 8, first_scratch=20)

    assert arrays["tokens"][0].tolist() == [7, 8, 9, 0, 0, 0, 0, 0]
    assert arrays["conveyor.read_slots"].tolist() == [5, 6, 7, 0, 0, 0, 0, 0]
    assert arrays["conveyor.write_slots"][:, 0].tolist() == [1, 2, 3, 20, 21, 22, 23, 24]
    assert arrays["conveyor.lengths"].tolist() == [1] * 8

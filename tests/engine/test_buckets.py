"""Padding to fixed batch sizes."""

import numpy as np
import pytest

from conveyor.engine.buckets import bucket_sizes, fill_buffers, make_buffers
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


def feeds(*slots: int) -> Feeds:
    """Sessions that read these slots and write the ones 10 further on, with their slots as tokens."""
    read = np.array(slots)
    return Feeds(1, {"tokens": read[np.newaxis]}, np.ones(len(slots), np.int32), read, read + 10)


def test_padding_reads_slot_0_and_writes_slots_of_its_own() -> None:
    """No two rows write one slot, and no padding touches a session's slot, also after a fuller run."""
    buffers = make_buffers(SIGNATURE, 4)
    fill_buffers(buffers, feeds(5, 6, 7, 8), SIGNATURE, first_scratch=20)
    fill_buffers(buffers, feeds(3, 4), SIGNATURE, first_scratch=20)

    assert buffers["conveyor.read_slots"].tolist() == [3, 4, 0, 0]
    assert buffers["conveyor.write_slots"][:, 0].tolist() == [13, 14, 20, 21]
    assert buffers["tokens"][0, :2].tolist() == [3, 4]
    assert buffers["conveyor.lengths"].tolist() == [1, 1, 1, 1]


def test_a_run_of_the_buffers_own_size_is_not_padded() -> None:
    """Nothing is left for padding to write."""
    buffers = make_buffers(SIGNATURE, 2)
    fill_buffers(buffers, feeds(3, 4), SIGNATURE, first_scratch=20)

    assert buffers["conveyor.write_slots"][:, 0].tolist() == [13, 14]

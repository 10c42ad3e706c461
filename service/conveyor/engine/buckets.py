"""Batch sizes for devices that want fixed shapes: a run is padded to the next of a few sizes. Pure."""

import numpy as np

from conveyor.engine.feeds import Feeds
from conveyor.engine.work import Array
from conveyor.signature import Signature


def bucket_sizes(max_batch: int) -> tuple[int, ...]:
    """Powers of two below the largest batch, and the largest batch itself."""
    return (*(1 << n for n in range((max_batch - 1).bit_length())), max_batch)


def bucket_of(num_sessions: int, sizes: tuple[int, ...]) -> int:
    """The smallest size that holds so many sessions."""
    return next(size for size in sizes if size >= num_sessions)


def padded_arrays(feeds: Feeds, signature: Signature, size: int, first_scratch: int) -> dict[str, Array]:
    """The serving graph's inputs of one run, padded to `size` sessions; the padding's results are nobody's.

    A padding row reads slot 0 and writes a scratch slot of its own, because rows that write one slot together leave it
    undefined. It has a length of 1, because a length of 0 makes the recurrent kernels zero the state.
    """
    num_padding = size - len(feeds.read_slots)
    scratch = np.arange(first_scratch, first_scratch + num_padding)
    arrays = {spec.name: _padded(feeds.inputs[spec.name], spec.axis.batch, num_padding) for spec in signature.inputs}
    arrays["conveyor.lengths"] = np.append(feeds.lengths, np.ones(num_padding, np.int32))
    arrays["conveyor.read_slots"] = np.append(feeds.read_slots, np.zeros(num_padding, np.int64))
    arrays["conveyor.write_slots"] = np.append(feeds.write_slots, scratch)[:, np.newaxis]
    return arrays


def _padded(array: Array, axis: int | None, num_padding: int) -> Array:
    if axis is None or num_padding == 0:
        return array
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, num_padding)
    return np.pad(array, widths)

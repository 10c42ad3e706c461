"""Batch sizes for runs in fixed buffers, and how a run is written into its size's buffers. Pure."""

import numpy as np

from conveyor.engine.feeds import Feeds
from conveyor.engine.work import Array
from conveyor.graph import CONTEXT_SLOTS, LENGTHS, READ_SLOTS, WRITE_SLOTS
from conveyor.signature import Signature, TensorSpec


def bucket_sizes(max_batch: int) -> tuple[int, ...]:
    """Powers of two below the largest batch, and the largest batch itself."""
    return (*(1 << n for n in range((max_batch - 1).bit_length())), max_batch)


def make_buffers(signature: Signature, size: int) -> dict[str, Array]:
    """The serving graph's inputs, but for the arenas, for one step of `size` sessions."""
    buffers: dict[str, Array] = {s.name: np.zeros(step_shape(s, size), s.dtype) for s in signature.timed}
    buffers[LENGTHS] = np.ones(size, np.int32)
    buffers[READ_SLOTS] = np.zeros(size, np.int64)
    buffers[WRITE_SLOTS] = np.zeros((size, 1), np.int64)
    if signature.contexts:
        buffers[CONTEXT_SLOTS] = np.zeros(size, np.int64)
    return buffers


def fill_buffers(buffers: dict[str, Array], feeds: Feeds, signature: Signature, first_scratch: int) -> None:
    """Writes one run of single steps; what it does not fill is padding, whose results are nobody's.

    A padding row reads slot 0 and writes a scratch slot of its own, because rows that write one slot together leave it
    undefined. Its length is 1, because a length of 0 makes the recurrent kernels zero the state.
    """
    count, size = len(feeds.read_slots), len(buffers[READ_SLOTS])
    for spec in signature.timed:
        if spec.axis.batch is None or count == size:
            buffers[spec.name][...] = feeds.inputs[spec.name]
        else:
            buffers[spec.name][(slice(None),) * spec.axis.batch + (slice(count),)] = feeds.inputs[spec.name]
    buffers[READ_SLOTS][:count] = feeds.read_slots
    buffers[WRITE_SLOTS][:count, 0] = feeds.write_slots
    if signature.contexts:
        buffers[CONTEXT_SLOTS][:count] = feeds.context_slots
        buffers[CONTEXT_SLOTS][count:] = 0
    if count < size:
        buffers[READ_SLOTS][count:] = 0
        buffers[WRITE_SLOTS][count:, 0] = range(first_scratch, first_scratch + size - count)


def step_shape(spec: TensorSpec, num_sessions: int) -> list[int]:
    """The graph's own shape of a stream tensor for one step of so many sessions."""
    shape = list(spec.shape)
    axes = ((spec.axis.batch, num_sessions), (spec.axis.time, 1))
    for axis, length in sorted((axis, length) for axis, length in axes if axis is not None):
        shape.insert(axis, length)
    return shape

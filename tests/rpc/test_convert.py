"""Conversions that have a fast path."""

import numpy as np
import pytest

from conveyor.engine.work import Want
from conveyor.rpc.convert import MAX_CACHED_WANT, token_array, want_of
from conveyor.v1 import step_pb2


@pytest.mark.parametrize("tokens", [[0], [7], [1023], [1024], [-1], [2**62], [1, 2], list(range(32)), list(range(33))])
def test_tokens_become_int64(tokens: list[int]) -> None:
    """Whichever path a length or a value takes, the array is the same."""
    array = token_array(step_pb2.Chunk(tokens=tokens).tokens)

    assert array.dtype == np.int64
    assert array.tolist() == tokens


def test_shared_arrays_cannot_be_written() -> None:
    """Chunks of the same token share an array, so nobody may change it."""
    array = token_array(step_pb2.Chunk(tokens=[5]).tokens)

    with pytest.raises(ValueError, match="read-only"):
        array[0] = 6


def test_long_wants_are_not_shared() -> None:
    """What a client makes long is not kept for it, or it could fill the memory."""
    long = step_pb2.Chunk(outputs=step_pb2.Outputs(names=["x" * MAX_CACHED_WANT]))

    assert want_of(long) == want_of(long)
    assert want_of(long) is not want_of(long)


def test_wants_are_shared() -> None:
    """Chunks that ask for the same are given the same object."""
    outputs = step_pb2.Outputs(names=["y"], top_k=3, last_only=True)
    first, second = (want_of(step_pb2.Chunk(outputs=outputs)) for _ in range(2))

    assert first is second
    assert first == Want(names=("y",), top_k=3, last_only=True)
    assert want_of(step_pb2.Chunk()) == Want()
    assert want_of(step_pb2.Chunk(scoring=step_pb2.Scoring())) == Want(scoring=True)

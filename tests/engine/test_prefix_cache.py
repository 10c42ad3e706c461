"""Which states are kept of which texts, against a model that looks at everything."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from conveyor.engine.prefix_cache import ENTRY_BYTES, MAX_TOKENS, PrefixCache

STATE_BYTES = 16

texts = st.lists(st.integers(0, 2), min_size=1, max_size=6)
operations = st.lists(
    st.tuples(st.sampled_from(["put", "longest", "touch"]), texts),
    max_size=40,
)


def state(number: int) -> dict[str, np.ndarray]:
    return {"float32": np.full(4, number, np.float32)}


def array(text: list[int]) -> np.ndarray:
    return np.array(text, np.int64)


def entry_bytes(text: Any) -> int:
    return ENTRY_BYTES + STATE_BYTES + 8 * len(text)


class Model:
    """The same as a list of texts and the numbers of their states, least recently used first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.kept: dict[tuple[int, ...], int] = {}

    @property
    def num_bytes(self) -> int:
        return sum(map(entry_bytes, self.kept))

    def put(self, text: list[int], number: int) -> None:
        self.kept.pop(tuple(text), None)
        self.kept[tuple(text)] = number
        while self.num_bytes > self.max_bytes:
            self.kept.pop(next(iter(self.kept)))

    def touch(self, text: list[int]) -> bool:
        if tuple(text) not in self.kept:
            return False
        self.kept[tuple(text)] = self.kept.pop(tuple(text))
        return True

    def longest(self, text: list[int]) -> tuple[int, int] | None:
        for length in range(len(text), 0, -1):
            if self.touch(text[:length]):
                return length, self.kept[tuple(text[:length])]
        return None


@settings(max_examples=200)
@given(operations=operations, num_entries=st.integers(0, 5))
def test_it_finds_what_a_search_of_all_finds(operations: list[tuple[str, list[int]]], num_entries: int) -> None:
    """The longest text kept is found with its state, and the least recently used go when the bytes are used up."""
    max_bytes = num_entries * (entry_bytes([0] * 3))
    cache, model = PrefixCache(max_bytes), Model(max_bytes)
    for number, (operation, text) in enumerate(operations):
        if operation == "put":
            cache.put(array(text), state(number))
            model.put(text, number)
        elif operation == "touch":
            assert cache.touch(array(text)) == model.touch(text)
        else:
            found = cache.longest(text)
            assert (found and (found[0], int(found[1]["float32"][0]))) == model.longest(text)
        assert cache.num_bytes == model.num_bytes <= max_bytes
        assert len(cache) == len(model.kept)


@settings(max_examples=100)
@given(kept=st.lists(texts, max_size=8), text=texts)
def test_a_hash_is_not_trusted(kept: list[list[int]], text: list[int]) -> None:
    """Where all texts have the same hash, a state is still given for its own text alone."""
    cache = PrefixCache(1 << 20)
    cache._factors[:] = 0
    for number, each in enumerate(kept):
        cache.put(array(each), state(number))

    assert cache.touch(array(text)) == (kept[-1:] == [text])
    found = cache.longest(text)
    is_prefix = bool(kept) and text[: len(kept[-1])] == kept[-1]
    assert (found is not None) == is_prefix
    if found is not None:
        assert (found[0], found[1]["float32"][0]) == (len(kept[-1]), len(kept) - 1)
    assert cache.num_bytes == sum(map(entry_bytes, kept[-1:]))


def test_the_rows_are_its_own() -> None:
    """What is kept is a copy: it does not hold on to the array that it was read with, nor change with it."""
    cache, rows = PrefixCache(1 << 20), np.zeros((3, 4), np.float32)
    cache.put(array([1, 2]), {"float32": rows[1]})
    rows[1] = 7
    found = cache.longest([1, 2, 3])

    assert found is not None
    assert found[1]["float32"].tolist() == [0, 0, 0, 0]
    assert found[1]["float32"].base is None


def test_long_texts_are_found_by_their_beginning() -> None:
    """A text beyond the longest that is kept is looked up as far as that."""
    cache, text = PrefixCache(1 << 20), [3] * (MAX_TOKENS + 5)
    cache.put(array(text[:MAX_TOKENS]), state(1))
    found = cache.longest(text)

    assert found is not None
    assert found[0] == MAX_TOKENS

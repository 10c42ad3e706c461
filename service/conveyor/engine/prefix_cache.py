"""States of texts that sessions have consumed from their beginning, by these texts. Pure."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conveyor.engine.spilled import Rows

Tokens = NDArray[np.int64]

MAX_TOKENS = 4096  # longer texts are not kept
ENTRY_BYTES = 640  # about what the objects of an entry take beside what is in its arrays


@dataclass(slots=True)
class Kept:
    """The state, rows by arena, after a text's tokens `[n]`."""

    tokens: Tokens
    rows: Rows
    num_bytes: int


class PrefixCache:
    """Keeps as many as fit `max_bytes`, those that were used last."""

    def __init__(self, max_bytes: int) -> None:
        self.num_bytes = 0
        self._max_bytes = max_bytes
        self._kept: OrderedDict[int, Kept] = OrderedDict()  # by hash, least recently used first
        # Odd and random, so that nobody can make texts that collide.
        self._factors = np.random.default_rng().integers(2**63, size=MAX_TOKENS, dtype=np.uint64) * 2 + 1

    def __len__(self) -> int:
        return len(self._kept)

    def longest(self, tokens: Sequence[int]) -> tuple[int, Rows] | None:
        """Length and state of the longest text kept that these tokens begin with."""
        text = np.array(tokens[:MAX_TOKENS], np.int64)
        hashes = np.cumsum(self._terms(text)).tolist()
        for length in range(len(text), 0, -1):
            kept = self._kept.get(hashes[length - 1])
            if kept is not None and np.array_equal(kept.tokens, text[:length]):
                self._kept.move_to_end(hashes[length - 1])
                return length, kept.rows
        return None

    def touch(self, tokens: Tokens) -> bool:
        """True if this very text is kept; it counts as used now."""
        name = int(self._terms(tokens).sum())
        kept = self._kept.get(name)
        if kept is None or not np.array_equal(kept.tokens, tokens):
            return False
        self._kept.move_to_end(name)
        return True

    def put(self, tokens: Tokens, rows: Rows) -> None:
        """Keeps a state, 1 to `MAX_TOKENS` tokens from the beginning; the least recently used go for it."""
        name = int(self._terms(tokens).sum())
        if name in self._kept:
            self.num_bytes -= self._kept.pop(name).num_bytes
        # Copied: a view would keep alive all the rows that were read with these.
        kept = Kept(tokens, {arena: row.copy() for arena, row in rows.items()}, 0)
        kept.num_bytes = ENTRY_BYTES + tokens.nbytes + sum(row.nbytes for row in kept.rows.values())
        self._kept[name] = kept
        self.num_bytes += kept.num_bytes
        while self.num_bytes > self._max_bytes:
            self.num_bytes -= self._kept.popitem(last=False)[1].num_bytes

    def _terms(self, tokens: Tokens) -> NDArray[np.uint64]:
        """What each token adds to the text's hash. Two texts may share one: who finds one compares the tokens."""
        terms: NDArray[np.uint64] = (tokens.astype(np.uint64) + 1) * self._factors[: len(tokens)]  # 0 must count too
        return terms

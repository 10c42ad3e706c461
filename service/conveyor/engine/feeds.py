"""What the runner takes and gives: plain arrays, by the names of the serving graph and its heads."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from conveyor.engine.work import Array

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(slots=True)
class TopFeeds:
    """Rows of the flattened logits whose `k` best tokens are wanted."""

    rows: Ints
    k: int


@dataclass(slots=True)
class ScoreFeeds:
    """Rows of the flattened logits, and the token of each whose log-probability is wanted: `[N]`."""

    rows: Ints
    targets: Ints


@dataclass(slots=True)
class SampleFeeds:
    """Rows of the flattened logits to draw a token from, and how: `[N]`, `recent` `[N, W]` padded with -1."""

    rows: Ints
    temperature: Floats
    top_k: Ints
    top_p: Floats
    penalty: Floats
    recent: Ints
    uniform: Floats


@dataclass(slots=True)
class Feeds:
    """One run. `inputs`, noises among them, are in the graph's own layout.

    A session reads `read_slots[i]`, writes `write_slots[i]` and, if the model has contexts, has them in
    `context_slots[i]`. Before the run, the rows of `spill_slots` are read out, and those of `restores` and `contexts`
    (slot, rows by arena) written.
    """

    num_steps: int
    inputs: dict[str, Array]
    lengths: NDArray[np.int32]
    read_slots: Ints
    write_slots: Ints
    outputs: tuple[str, ...] = ()
    top: TopFeeds | None = None
    score: ScoreFeeds | None = None
    sample: SampleFeeds | None = None
    context_slots: Ints | None = None
    spill_slots: list[int] = field(default_factory=list)
    restores: list[tuple[int, dict[str, Array]]] = field(default_factory=list)
    contexts: list[tuple[int, dict[str, Array]]] = field(default_factory=list)


@dataclass(slots=True)
class Results:
    """What a run gave, or the `error` it ended in.

    `outputs` are time-major, `[T, B, ...]`; `spilled` has the rows of each spilled slot by arena.
    """

    outputs: dict[str, Array] = field(default_factory=dict)
    top_tokens: list[list[int]] = field(default_factory=list)
    top_scores: list[list[float]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    sampled_tokens: list[int] = field(default_factory=list)
    sampled_scores: list[float] = field(default_factory=list)
    spilled: list[dict[str, Array]] = field(default_factory=list)
    run_seconds: float = 0.0
    error: Exception | None = None

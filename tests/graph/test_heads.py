"""The heads, run by onnxruntime, against plain NumPy; and each row alone against the same row in a batch."""

from functools import cache
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conveyor.graph import heads

Fields = dict[str, np.ndarray]


@cache
def session(head: str, dtype: str = "float32") -> ort.InferenceSession:
    proto = getattr(heads, f"{head}_head")(dtype)
    return ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def run(head: str, fields: Fields, dtype: str = "float32") -> list[np.ndarray]:
    return session(head, dtype).run(None, fields)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    wide = wide - wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))


def penalise(logits: np.ndarray, penalty: np.float32, recent: np.ndarray) -> np.ndarray:
    out = logits.copy()
    for token in {int(t) for t in recent if t >= 0}:
        out[token] = out[token] / penalty if out[token] > 0 else out[token] * penalty
    return out


def distribution(logits: np.ndarray, fields: Fields) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that the cuts leave, in the order of drawing, and their running probabilities."""
    if fields["temperature"] == 0:
        return np.array([int(np.argmax(logits))]), np.ones(1)
    order = np.argsort(-logits, kind="stable")
    if fields["top_k"] > 0:
        order = order[: fields["top_k"]]
    scaled = (logits[order].astype(np.float64) - logits.max()) / fields["temperature"]
    shares = np.exp(scaled) / np.exp(scaled).sum()
    if fields["top_p"] < 1:
        kept = max(1, int(np.sum(np.concatenate([[0], np.cumsum(shares)[:-1]]) < fields["top_p"])))
        order, shares = order[:kept], shares[:kept] / shares[:kept].sum()
    if fields["top_k"] == 0 and fields["top_p"] == 1:
        by_id = np.argsort(order)
        order, shares = order[by_id], shares[by_id]
    return order, np.cumsum(shares)


def make_fields(rng: np.random.Generator, n: int, v: int) -> Fields:
    """Rows of every kind: greedy or not, cut in neither, either or both ways."""
    recent = rng.integers(-1, v, (n, int(rng.integers(1, 7))))
    recent[rng.random(n) < 0.3] = -1
    return {
        "temperature": rng.choice([0, 0.3, 1, 2.5], n).astype(np.float32),
        "top_k": rng.choice([0, 0, 1, 2, 5, v, v + 3], n),
        "top_p": rng.choice([1, 1, 0.95, 0.5, 1e-4], n).astype(np.float32),
        "penalty": rng.choice([1, 1.3, 0.8], n).astype(np.float32),
        "recent": recent,
        "uniform": rng.choice([0, rng.random(), np.nextafter(np.float32(1), np.float32(0))], n).astype(np.float32),
    }


def row_of(fields: Fields, index: int) -> Fields:
    return {name: array[index] for name, array in fields.items()}


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 6), v=st.integers(1, 300), coarse=st.booleans())
def test_sample_head(seed: int, n: int, v: int, coarse: bool) -> None:
    """A drawn token is the oracle's, ties and all, unless the uniform number lies on the border of two tokens."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(2, n, v)) * 3).astype(np.float32)
    if coarse:
        logits = np.round(logits)
    rows = rng.integers(0, 2 * n, n)
    fields = make_fields(rng, n, v)
    tokens, log_probabilities = run("sample", {"logits": logits, "rows": rows, **fields})
    flat = logits.reshape(-1, v)[rows]
    for index, (token, raw) in enumerate(zip(tokens, flat, strict=True)):
        row = row_of(fields, index)
        assert int(token) in allowed_tokens(raw, row)
    expected = np.take_along_axis(log_softmax(flat), tokens[:, None], 1)[:, 0]
    np.testing.assert_allclose(log_probabilities, expected, atol=2e-5)


def allowed_tokens(raw: np.ndarray, row: dict[str, Any]) -> set[int]:
    """The oracle's token, and those that a rounding error in `uniform` or `top_p` away would be."""
    logits, error = penalise(raw, row["penalty"], row["recent"]), 1e-5
    found: set[int] = set()
    for change in (0, -error, error) if row["top_p"] < 1 else (0,):
        order, sums = distribution(logits, row | {"top_p": max(row["top_p"] + change, 1e-9)})
        first, last = (int(np.sum(sums <= row["uniform"] + d)) for d in (-error, error))
        found |= {int(token) for token in order[min(first, len(order) - 1) : last + 1]}
    return found


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 40), v=st.integers(1, 400))
def test_rows_are_independent(seed: int, n: int, v: int) -> None:
    """Each head gives a row the same bits alone as in any batch."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(n, v)) * 3).astype(np.float32)
    fields = make_fields(rng, n, v)
    order = rng.permutation(n)
    k = np.array([rng.integers(1, v + 1)])
    targets = rng.integers(0, v, n)
    together = run("sample", {"logits": logits, "rows": order, **{f: a[order] for f, a in fields.items()}})
    together += run("top", {"logits": logits, "rows": order, "k": k})
    together += run("score", {"logits": logits, "rows": order, "targets": targets[order]})
    for place, row in enumerate(order[:5]):
        one = {"logits": logits[None, [row]], "rows": np.array([0])}
        alone = run("sample", one | {f: a[[row]] for f, a in fields.items()})
        alone += run("top", one | {"k": k}) + run("score", one | {"targets": targets[[row]]})
        for batch, single in zip(together, alone, strict=True):
            assert batch[place].tobytes() == single[0].tobytes()


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), v=st.integers(1, 300), coarse=st.booleans())
def test_top_and_score_heads(seed: int, v: int, coarse: bool) -> None:
    """The best tokens come best first, of equals the lower id first, with their log-probabilities."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(3, 2, v)) * 3).astype(np.float32)
    if coarse:
        logits = np.round(logits)
    rows, k = rng.integers(0, 6, 4), int(rng.integers(1, v + 1))
    flat = logits.reshape(-1, v)[rows]
    expected = np.argsort(-flat, axis=1, kind="stable")[:, :k]
    tokens, best = run("top", {"logits": logits, "rows": rows, "k": np.array([k])})
    np.testing.assert_array_equal(tokens, expected)
    np.testing.assert_allclose(best, np.take_along_axis(log_softmax(flat), expected, 1), atol=2e-5)
    targets = rng.integers(0, v, 4)
    (scores,) = run("score", {"logits": logits, "rows": rows, "targets": targets})
    np.testing.assert_allclose(scores, log_softmax(flat)[range(4), targets], atol=2e-5)


@pytest.mark.parametrize(
    ("logits", "cut", "uniform", "token"),
    [
        ([0, 0, 0, 0], {}, 0, 0),
        ([0, 0, 0, 0], {}, 0.25, 1),
        ([0, 0, 0, 0], {}, 1, 3),
        ([-1e9, 0, 0, -1e9], {}, 0, 1),
        ([-1e9, 0, 0, -1e9], {}, 1, 2),
        ([0, 0, 0, 0], {"top_k": 2}, 0.5, 1),
        ([0, 1, 1, 0], {"top_k": 1}, 0.9, 1),
        ([0, 0, 0, 0], {"top_k": 2}, 1, 1),
        ([0, 0, 0, 0], {"top_p": 0.5}, 0.75, 1),
        ([0, 0, 0, 0], {"top_p": 0.5}, 0.25, 0),
        ([0, 0, 0, 0], {"top_p": 0.51}, 0.75, 2),
        ([0, 0, 0, 0], {"top_p": 0.5}, 1, 1),
        ([0, 0, 0, 0], {"top_k": 2, "top_p": 0.5}, 0.9, 0),
        ([1, 2, 2, 1], {"temperature": 0}, 0.9, 1),
    ],
)
def test_borders(logits: list[float], cut: dict[str, float], uniform: float, token: int) -> None:
    """Sums that are exact fall on the right side of each cut, and a uniform number of 1 stays within what is left."""
    plain = {"temperature": 1, "top_k": 0, "top_p": 1, "penalty": 1, "uniform": uniform} | cut
    fields = {name: np.array([value], np.int64 if name == "top_k" else np.float32) for name, value in plain.items()}
    batch = {"logits": np.array([logits], np.float32), "rows": np.array([0]), "recent": np.array([[-1]])}
    assert run("sample", batch | fields)[0] == [token]


def test_frequencies() -> None:
    """Evenly spread uniform numbers draw each token as often as it is likely."""
    n, v = 4000, 11
    row = np.random.default_rng(0).normal(size=v).astype(np.float32)
    fields: Fields = {
        "temperature": np.full(n, 0.7, np.float32),
        "top_k": np.zeros(n, np.int64),
        "top_p": np.ones(n, np.float32),
        "penalty": np.ones(n, np.float32),
        "recent": np.full((n, 1), -1),
        "uniform": ((np.arange(n) + 0.5) / n).astype(np.float32),
    }
    for cut in ({}, {"top_k": np.full(n, 4)}, {"top_p": np.full(n, 0.8, np.float32)}):
        tokens, _ = run("sample", {"logits": row[None], "rows": np.zeros(n, np.int64), **fields, **cut})
        order, sums = distribution(row, row_of(fields | cut, 0))
        shares = np.zeros(v)
        shares[order] = np.diff(sums, prepend=0)
        np.testing.assert_allclose(np.bincount(tokens, minlength=v) / n, shares, atol=1.5 / n)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_numbers(bad: float) -> None:
    """A row of broken logits gets some token of the vocabulary and leaves the other rows alone."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(24, 50)).astype(np.float32)
    fields = make_fields(rng, 24, 50)
    good = run("sample", {"logits": logits, "rows": np.arange(24), **fields})[0]
    broken = logits.copy()
    broken[::2] = bad
    tokens = run("sample", {"logits": broken, "rows": np.arange(24), **fields})[0]
    assert tokens.min() >= 0
    assert tokens.max() < 50
    np.testing.assert_array_equal(tokens[1::2], good[1::2])


def test_float16_logits() -> None:
    """Heads for float16 logits compute in float32."""
    rng = np.random.default_rng(0)
    half = rng.normal(size=(4, 30)).astype(np.float16)
    rest = {"rows": np.arange(4), **make_fields(rng, 4, 30)}
    for got, expected in zip(
        run("sample", {"logits": half, **rest}, "float16"),
        run("sample", {"logits": half.astype(np.float32), **rest}),
        strict=True,
    ):
        np.testing.assert_array_equal(got, expected)

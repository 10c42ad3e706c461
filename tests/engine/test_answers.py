"""Kept answers and drawn tokens as bytes, and back."""

from math import nan

import numpy as np
import pytest

from conveyor.engine.answers import decode_answers, encode_answers
from conveyor.engine.drawn import Drawn
from conveyor.engine.session import Kept
from conveyor.engine.work import Answer, Chunk, Generation, Sampling, Token, Want
from tests.engine.harness import ListSink

SINK = ListSink()
WANT = Want(("logits", "gates"), top_k=2, scoring=True)


def kept_of(start: int, num_steps: int) -> Kept:
    rng = np.random.default_rng(start)
    outputs = {
        "logits": rng.normal(size=(num_steps, 5)).astype(np.float16),
        "gates": np.zeros((0, 3), bool),  # of no step
    }
    answer = Answer("a", start + num_steps, num_steps, outputs, [1, 2], [-0.25, -1 / 3], [nan, -0.1], 0.5)
    return Kept(start, {"tokens": rng.integers(0, 9, num_steps)}, WANT, answer)


def test_answers_come_back_as_they_were() -> None:
    """To the last bit, in their order, and for the same requests alone."""
    kept = (kept_of(0, 3), kept_of(3, 2))

    again, drawn = decode_answers(encode_answers(kept, None))

    assert drawn is None
    for one, other in zip(kept, again, strict=True):
        chunk = Chunk("a", one.inputs, WANT, SINK, position=one.start)
        assert other.is_of(chunk, one.answer.num_steps)
        assert not other.is_of(Chunk("a", one.inputs, Want(), SINK, position=one.start), one.answer.num_steps)
        assert other.answer.outputs.keys() == one.answer.outputs.keys()
        for name, array in one.answer.outputs.items():
            assert other.answer.outputs[name].dtype == array.dtype
            np.testing.assert_array_equal(other.answer.outputs[name], array)
        np.testing.assert_array_equal(other.answer.log_probabilities, one.answer.log_probabilities)
        assert other.answer.top_log_probabilities == one.answer.top_log_probabilities
        assert (other.answer.position, other.answer.top_tokens) == (one.answer.position, one.answer.top_tokens)


@pytest.mark.parametrize("top_k", [0, 1])
def test_tokens_come_back_as_they_were(top_k: int) -> None:
    """With their scores and alternatives, for who asks for them as before and for nobody else."""
    wishes = {"sampling": Sampling(temperature=0.7), "top_k": top_k}
    drawn = Drawn(10, Generation("a", [1, 2], 9, SINK, num_generated=1, **wishes), seed=2**63, seen=[7])
    for index in range(3):
        drawn.add(Token("a", 13 + index, index, -index / 3, *(([index], [-0.5]) if top_k else ([], []))))

    kept, again = decode_answers(encode_answers((), drawn))

    assert not kept
    assert again is not None
    for tokens, position in (([1, 2], 10), ([], 13)):
        work = Generation("a", tokens, 9, SINK, position=position, **wishes)
        assert again.asked_for(work, 2**63, "a") == drawn.asked_for(work, 2**63, "a") != []
        assert again.asked_for(work, 1, "a") == []
    assert again.before(13) == drawn.before(13)
    assert [again.reaches(position) for position in (9, 10, 11, 12)] == [False, True, False, True]


def test_nothing_takes_no_room() -> None:
    """A session whose client has all answers is stored as one that never answered."""
    assert encode_answers((), None) == b""
    assert decode_answers(b"") == ((), None)


def test_what_cannot_be_read_is_told() -> None:
    """Cut short, or something else: never half an answer."""
    data = encode_answers((kept_of(0, 3),), None)

    for wrong in (data[:-1], data[:3], data[4:], b"\x02\0\0\0{}", b"\x02\0\0\0[]"):
        with pytest.raises((ValueError, KeyError, TypeError)):
            decode_answers(wrong)

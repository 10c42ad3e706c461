"""Work is refused before it is accepted, with the field that is wrong."""

from typing import Any

import numpy as np
import pytest

from conveyor.engine.limits import Limits
from conveyor.engine.validation import Validator
from conveyor.engine.work import Chunk, Generation, Sampling, Want
from conveyor.errors import FailedPrecondition, InvalidArgument
from conveyor.signature import Axis, OutputSpec, Signature, StateSpec, TensorSpec
from tests.engine.harness import ListSink

LIMITS = Limits(max_chunk_steps=8)
STATE = StateSpec("h", "float32", (2,), Axis(batch=0), output="h_out")
TOKENS = Signature(
    inputs=(TensorSpec("tokens", "int64", (), Axis(batch=1, time=0)),),
    states=(STATE,),
    outputs=(OutputSpec("logits", "float32", (10,), Axis(batch=1, time=0), is_logits=True),),
    max_token=9,
)
FRAMES = Signature(
    inputs=(
        TensorSpec("x", "float32", (3,), Axis(batch=1, time=0)),
        TensorSpec("kind", "int32", (), Axis(batch=1, time=0)),
    ),
    states=(STATE,),
    outputs=(OutputSpec("y", "float32", (5,), Axis(batch=1, time=0)),),
    max_token=9,
)


def chunk_of(want: Want = Want(), **inputs: Any) -> Chunk:  # noqa: B008 - Want is frozen
    return Chunk("a", {name: np.asarray(array) for name, array in inputs.items()}, want, ListSink())


def tokens_of(*tokens: int, want: Want = Want()) -> Chunk:  # noqa: B008 - Want is frozen
    return chunk_of(want, tokens=np.array(tokens, np.int64))


def frames_of(x: Any = None, kind: Any = None) -> Chunk:
    good_x, good_kind = np.zeros((2, 3), np.float32), np.zeros(2, np.int32)
    return chunk_of(x=good_x if x is None else x, kind=good_kind if kind is None else kind)


def check(validator: Validator, work: Chunk | Generation, *, has_pending: bool) -> None:
    if isinstance(work, Chunk):
        validator.chunk(work)
    else:
        validator.generation(work, has_pending=has_pending)


def field_of(signature: Signature, work: Chunk | Generation, *, has_pending: bool = False) -> str:
    """The field that work is refused for."""
    with pytest.raises(InvalidArgument) as caught:
        check(Validator(signature, LIMITS), work, has_pending=has_pending)
    return caught.value.field


def test_good_chunks() -> None:
    """Tokens come back as a list with their number; tensors with their number of steps alone."""
    assert Validator(TOKENS, LIMITS).chunk(tokens_of(0, 9, 5)) == ([0, 9, 5], 3)
    assert Validator(FRAMES, LIMITS).chunk(frames_of()) == (None, 2)


@pytest.mark.parametrize(
    ("chunk", "field"),
    [
        (tokens_of(), "tokens"),
        (tokens_of(*[1] * 9), "tokens"),
        (tokens_of(1, 10), "tokens[1]"),
        (tokens_of(1, 2, -1, 10), "tokens[2]"),
        (tokens_of(2**62), "tokens[0]"),
        (chunk_of(tokens=np.array([1], np.int32)), "inputs[tokens]"),
        (chunk_of(tokens=np.array([[1]], np.int64)), "inputs[tokens]"),
        (chunk_of(tokens=np.array(1, np.int64)), "inputs[tokens]"),
        (chunk_of(x=[1.0]), "inputs"),
        (chunk_of(), "inputs"),
        (chunk_of(tokens=np.array([1]), x=[1.0]), "inputs"),
    ],
)
def test_chunks_of_tokens(chunk: Chunk, field: str) -> None:
    """Tokens are int64 `[steps]`, at least one and not too many, each in the vocabulary; the first bad one is named."""
    assert field_of(TOKENS, chunk) == field


@pytest.mark.parametrize(
    ("chunk", "field"),
    [
        (frames_of(x=np.zeros((2, 3))), "inputs[x]"),
        (frames_of(x=np.zeros((2, 4), np.float32)), "inputs[x]"),
        (frames_of(x=np.zeros(3, np.float32)), "inputs[x]"),
        (frames_of(x=np.zeros((2, 1, 3), np.float32)), "inputs[x]"),
        (frames_of(x=np.full((2, 3), np.nan, np.float32)), "inputs[x]"),
        (frames_of(x=np.full((2, 3), np.inf, np.float32)), "inputs[x]"),
        (frames_of(kind=np.zeros(2, np.int64)), "inputs[kind]"),
        (frames_of(kind=np.array(1, np.int32)), "inputs[kind]"),
        (frames_of(kind=np.array([1, 10], np.int32)), "inputs[kind][1]"),
        (frames_of(kind=np.array([-1, 3], np.int32)), "inputs[kind][0]"),
        (frames_of(kind=np.zeros(3, np.int32)), "inputs[kind]"),
        (frames_of(np.zeros((0, 3), np.float32), np.zeros(0, np.int32)), "inputs"),
        (frames_of(np.zeros((9, 3), np.float32), np.zeros(9, np.int32)), "inputs"),
        (chunk_of(x=np.zeros((2, 3), np.float32)), "inputs"),
        (tokens_of(1), "inputs"),
    ],
)
def test_chunks_of_tensors(chunk: Chunk, field: str) -> None:
    """Tensors are of the signature's dtype and shape, finite, and all of the same number of steps."""
    assert field_of(FRAMES, chunk) == field


@pytest.mark.parametrize(
    ("want", "field"),
    [
        (Want(names=("logits", "gates")), "outputs.names"),
        (Want(top_k=11), "outputs.top_k"),
        (Want(top_k=-1), "outputs.top_k"),
    ],
)
def test_wants(want: Want, field: str) -> None:
    """Outputs are the model's, and no more top tokens are asked for than there are; a second try fares no better."""
    validator, chunk = Validator(TOKENS, LIMITS), tokens_of(1, want=want)
    for _ in range(2):
        with pytest.raises(InvalidArgument) as caught:
            validator.chunk(chunk)
        assert caught.value.field == field


@pytest.mark.parametrize("want", [Want(top_k=1), Want(scoring=True)])
def test_a_model_without_a_vocabulary_scores_nothing(want: Want) -> None:
    """Top tokens and scoring need a model of tokens."""
    chunk = frames_of()
    chunk.want = want
    with pytest.raises(FailedPrecondition):
        Validator(FRAMES, LIMITS).chunk(chunk)


def generation(tokens: tuple[int, ...] = (1,), max_tokens: int = 5, **fields: Any) -> Generation:
    return Generation("a", list(tokens), max_tokens, ListSink(), **fields)


@pytest.mark.parametrize(
    ("work", "field"),
    [
        (generation(()), "tokens"),
        (generation((1,) * 9), "tokens"),
        (generation((1, 10)), "tokens[1]"),
        (generation(max_tokens=0), "max_tokens"),
        (generation(top_k=11), "top_k_log_probabilities"),
        (generation(top_k=-1), "top_k_log_probabilities"),
        (generation(stop_sequences=((1,), (1, 2, 10))), "stop_sequences[1].tokens[2]"),
        (generation(stop_sequences=((1,), ())), "stop_sequences[1].tokens"),
        (generation(stop_sequences=((1,) * 257,)), "stop_sequences[0].tokens"),
        (generation(stop_sequences=((1,),) * 65), "stop_sequences"),
        (generation(sampling=Sampling(temperature=-0.1)), "sampling.temperature"),
        (generation(sampling=Sampling(temperature=float("nan"))), "sampling.temperature"),
        (generation(sampling=Sampling(temperature=float("inf"))), "sampling.temperature"),
        (generation(sampling=Sampling(top_k=-1)), "sampling.top_k"),
        (generation(sampling=Sampling(top_p=0.0)), "sampling.top_p"),
        (generation(sampling=Sampling(top_p=1.1)), "sampling.top_p"),
        (generation(sampling=Sampling(top_p=float("nan"))), "sampling.top_p"),
        (generation(sampling=Sampling(repetition_penalty=0.0)), "sampling.repetition_penalty"),
        (generation(sampling=Sampling(repetition_penalty=1e-44)), "sampling.repetition_penalty"),
        (generation(sampling=Sampling(repetition_penalty=float("inf"))), "sampling.repetition_penalty"),
        (generation(sampling=Sampling(repetition_window=0)), "sampling.repetition_window"),
        (generation(sampling=Sampling(repetition_window=257)), "sampling.repetition_window"),
    ],
)
def test_generations(work: Generation, field: str) -> None:
    """Each field of a generation has its bounds."""
    assert field_of(TOKENS, work) == field


def test_good_generations() -> None:
    """The bounds themselves are allowed, and an empty prompt where a token is pending."""
    widest = Sampling(0.0, top_k=1000, top_p=1.0, repetition_penalty=5.0, repetition_window=256)
    validator = Validator(TOKENS, LIMITS)
    validator.generation(generation((0, 9), 1, top_k=10, sampling=widest), has_pending=False)
    validator.generation(generation(()), has_pending=True)


def test_a_model_of_tensors_does_not_generate() -> None:
    """Generation needs a model that takes and scores tokens."""
    with pytest.raises(FailedPrecondition):
        Validator(FRAMES, LIMITS).generation(generation(), has_pending=False)

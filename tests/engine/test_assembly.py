"""Batches to arrays and back."""

import numpy as np
import pytest

from conveyor.engine.assembly import Assembler, from_layout, to_layout
from conveyor.engine.feeds import Results
from conveyor.engine.job import ChunkJob, GenerationJob, Job
from conveyor.engine.scheduler import Batch
from conveyor.engine.session import Session
from conveyor.engine.work import Chunk, Generation, Sampling, Want
from conveyor.signature import Axis, OutputSpec, Signature, StateSpec, TensorSpec
from tests.engine.harness import LOGITS, ListSink

SHAPES: list[tuple[int, ...]] = [(), (4,), (4, 5)]
PLACES = [None, 0, 1, 2, 3]
SPECS = [
    TensorSpec("x", "float32", shape, Axis(batch, time))
    for shape in SHAPES
    for batch in PLACES
    for time in PLACES
    if (batch is None or batch != time)
    and max(batch or 0, time or 0) < len(shape) + (batch is not None) + (time is not None) + (batch is time is None)
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{len(spec.shape)}-B{spec.axis.batch}-T{spec.axis.time}")
def test_layouts_are_inverses(spec: TensorSpec) -> None:
    """Wherever a graph has its batch and time axes, what goes to its layout comes back as it was."""
    num_steps = 3 if spec.axis.time is not None else 1
    num_sessions = 2 if spec.axis.batch is not None else 1
    canonical = np.random.default_rng(0).normal(size=(num_steps, num_sessions, *spec.shape)).astype(np.float32)
    array = to_layout(canonical, spec)

    assert isinstance(array, np.ndarray)
    assert array.flags.c_contiguous
    assert array.ndim == spec.rank
    if spec.axis.batch is not None:
        assert array.shape[spec.axis.batch] == num_sessions
    if spec.axis.time is not None:
        assert array.shape[spec.axis.time] == num_steps
    np.testing.assert_array_equal(from_layout(array, spec), canonical)


def signature_of(logits: Axis) -> Signature:
    return Signature(
        inputs=(TensorSpec("tokens", "int64", (), logits),),
        states=(StateSpec("h", "float32", (2,), Axis(batch=0), output="h_out"),),
        outputs=(OutputSpec("logits", "float32", (10,), logits, is_logits=True),),
        max_token=9,
    )


TIME_MAJOR, BATCH_MAJOR = signature_of(Axis(batch=1, time=0)), signature_of(Axis(batch=0, time=1))


def session_of(name: str, slot: int) -> Session:
    return Session(name, 5, 0.0, 10.0, 10.0, 0.0, slot=slot)


def chunk_job(tokens: list[int], want: Want = LOGITS, slot: int = 1) -> ChunkJob:
    chunk = Chunk("a", {"tokens": np.array(tokens)}, want, ListSink())
    job = ChunkJob(session_of("a", slot), chunk, tokens, len(tokens), 0.0)
    begin(job, slot)
    return job


def generation_job(tokens: list[int], slot: int = 2, **fields: object) -> GenerationJob:
    work = Generation("b", tokens, 9, ListSink(), **fields)  # type: ignore[arg-type]
    job = GenerationJob(session_of("b", slot), work, 0.0)
    begin(job, slot)
    return job


def begin(job: Job, slot: int) -> None:
    job.session.jobs.append(job)
    job.slot = slot + 10
    job.begin()


def flat_rows(signature: Signature, logits: np.ndarray) -> np.ndarray:
    """Canonical logits `[T, B, V]` as the heads see them: the graph's own array, its last axis apart."""
    return to_layout(logits, signature.outputs[0]).reshape(-1, logits.shape[-1])


@pytest.mark.parametrize("signature", [TIME_MAJOR, BATCH_MAJOR])
def test_heads_look_at_the_right_rows(signature: Signature) -> None:
    """Whichever axis of the logits comes first, every head gets the rows of its own sessions and steps."""
    top = chunk_job([1, 2, 3, 4], Want(top_k=2), slot=1)
    scoring = chunk_job([5, 6, 7, 8], Want(scoring=True), slot=2)
    drawing = generation_job([9, 1], slot=3, top_k=3)
    last = chunk_job([1, 2, 3], Want(top_k=1, last_only=True), slot=4)
    batch = Batch([top, scoring, drawing, last], [4, 3, 2, 3], 4)
    feeds = Assembler(signature).assemble(batch).feeds
    logits = np.arange(4 * 4 * 10).reshape(4, 4, 10)
    rows = flat_rows(signature, logits)

    assert feeds.top is not None
    assert feeds.score is not None
    assert feeds.sample is not None
    expected_top = [logits[t, 0] for t in range(4)] + [logits[1, 2], logits[2, 3]]
    np.testing.assert_array_equal(rows[feeds.top.rows], expected_top)
    assert feeds.top.k == 3
    np.testing.assert_array_equal(rows[feeds.score.rows], logits[:3, 1])
    assert feeds.score.targets.tolist() == [6, 7, 8]
    np.testing.assert_array_equal(rows[feeds.sample.rows], [logits[1, 2]])


@pytest.mark.parametrize("signature", [TIME_MAJOR, BATCH_MAJOR])
def test_tokens_are_padded(signature: Signature) -> None:
    """Each session's tokens stand in its own column or row from the first step on, zeros after them."""
    batch = Batch([chunk_job([1, 2, 3]), generation_job([4])], [3, 1], 3)
    feeds = Assembler(signature).assemble(batch).feeds

    tokens = from_layout(feeds.inputs["tokens"], signature.inputs[0])
    assert tokens.tolist() == [[1, 4], [2, 0], [3, 0]]
    assert feeds.lengths.tolist() == [3, 1]
    assert feeds.lengths.dtype == np.int32


def test_a_job_that_goes_on_reads_what_it_wrote() -> None:
    """The first run of a job reads its session's slot, later ones the job's own; all write the job's own."""
    fresh, going = chunk_job([1, 2], slot=1), chunk_job([1, 2, 3, 4], slot=2)
    going.num_done = 2
    feeds = Assembler(TIME_MAJOR).assemble(Batch([fresh, going], [2, 2], 2)).feeds

    assert feeds.read_slots.tolist() == [1, 12]
    assert feeds.write_slots.tolist() == [11, 12]
    assert feeds.inputs["tokens"].tolist() == [[1, 3], [2, 4]]


def test_results_go_to_their_jobs() -> None:
    """Each job collects its own outputs, top tokens, scores and draws, run after run, and none of another's."""
    named = chunk_job([1, 2, 3], LOGITS, slot=1)
    top = chunk_job([4, 5, 6], Want(top_k=2), slot=2)
    scoring = chunk_job([1, 2, 3, 4], Want(scoring=True), slot=3)
    drawing = generation_job([7, 8], slot=4, top_k=1)
    assembler = Assembler(TIME_MAJOR)
    for lengths in ([2, 2, 2, 2], [1, 1, 1]):
        jobs = [named, top, scoring, drawing][: len(lengths)]
        batch = Batch(jobs, lengths, max(lengths))
        assembly = assembler.assemble(batch)
        start = named.num_done
        num_top = len(assembly.feeds.top.rows)  # type: ignore[union-attr]
        results = Results(
            outputs={"logits": np.full((batch.num_steps, len(jobs), 10), start, np.float32)},
            top_tokens=[[10 * (start + row), 1] for row in range(num_top)],
            top_scores=[[-0.5, -1.0]] * num_top,
            scores=[float(start + row) for row in range(lengths[2])],
            sampled_tokens=[6] * len(assembly.drawn),
            sampled_scores=[-2.0] * len(assembly.drawn),
        )
        assembler.absorb(batch, assembly, results)

    answer = named.commit()
    np.testing.assert_array_equal(answer.outputs["logits"][:, 0], [0, 0, 2])
    assert top.commit().top_tokens == [0, 1, 10, 1, 20, 1]
    assert scoring.commit().log_probabilities[1:] == [0.0, 1.0, 2.0]
    token = drawing.commit()
    assert (token.token, token.log_probability, token.top_tokens) == (6, -2.0, [20])


def test_the_repetition_window_is_padded() -> None:
    """Sessions without a penalty look at nothing; others at their latest tokens, padded to the longest."""
    plain = generation_job([1, 2, 3], slot=1)
    short = generation_job([4], slot=2, sampling=Sampling(repetition_penalty=1.5))
    long = generation_job([5, 6, 7], slot=3, sampling=Sampling(repetition_penalty=1.5, repetition_window=2))
    sample = Assembler(TIME_MAJOR).assemble(Batch([plain, short, long], [3, 1, 3], 3)).feeds.sample

    assert sample is not None
    assert sample.recent.tolist() == [[-1, -1], [4, -1], [6, 7]]
    assert sample.penalty.tolist() == [1.0, 1.5, 1.5]

"""Who advances together, and how far."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conveyor.engine.job import ChunkJob
from conveyor.engine.scheduler import Batch, Scheduler, choose_length
from conveyor.engine.session import Session
from conveyor.engine.work import Chunk, Want
from tests.engine.harness import ListSink

remainders = st.lists(st.integers(1, 5000), min_size=1, max_size=40)


def make_session(name: str, num_steps: int) -> Session:
    session = Session(name, 0, 0.0, 10.0, 10.0, 0.0)
    job = ChunkJob(session, Chunk(name, {}, Want(), ListSink()), None, num_steps, 0.0)
    job.begin()
    session.jobs.append(job)
    return session


def scheduler_of(*lengths: int, is_ragged: bool = True, max_run_steps: int = 64) -> Scheduler:
    """Sessions "0", "1", ... in line, with work of these lengths."""
    scheduler = Scheduler(len(lengths), max_run_steps, is_ragged=is_ragged)
    for index, length in enumerate(lengths):
        scheduler.add(make_session(str(index), length))
    return scheduler


def names(sessions: list[Session]) -> str:
    return "".join(session.session_id for session in sessions)


def advance(scheduler: Scheduler, batch: Batch) -> None:
    """Counts the steps of a batch, and lines up again who is not done."""
    for job, length in zip(batch.jobs, batch.lengths, strict=True):
        job.num_done += length
        job.session.is_running = False
        if job.num_done < job.num_total:
            scheduler.add(job.session)


@pytest.mark.parametrize("is_ragged", [True, False])
def test_alone_a_prefix_runs_long(is_ragged: bool) -> None:
    """A long chunk that is alone runs as far at once as a run may go."""
    assert choose_length([1000], 64, is_ragged=is_ragged) == 64
    assert choose_length([50], 64, is_ragged=is_ragged) >= 32


def test_beside_many_singles_a_prefix_goes_step_by_step() -> None:
    """A long chunk among many single steps does not make them wait for its own steps."""
    assert choose_length([1000] + [1] * 63, 64, is_ragged=True) == 1
    assert choose_length([1] * 63 + [1000], 64, is_ragged=False) == 1


def test_equal_lengths_run_whole() -> None:
    """Chunks of one length run to their end in one run, a power of two or not."""
    for is_ragged in (True, False):
        assert choose_length([13] * 20, 64, is_ragged=is_ragged) == 13


@given(remainders, st.integers(1, 64), st.booleans())
@settings(max_examples=60)
def test_a_length_is_within_bounds(remaining: list[int], max_steps: int, is_ragged: bool) -> None:
    """A run has at least one step, no more than it may have, and no more than the longest chunk can use."""
    assert 1 <= choose_length(remaining, max_steps, is_ragged=is_ragged) <= min(max_steps, max(remaining))


@given(remainders, st.integers(1, 64))
@settings(max_examples=60)
def test_where_short_ones_are_left_out_the_oldest_is_not(remaining: list[int], max_steps: int) -> None:
    """Without ragged batches the first in line is in every batch, so that nobody waits for ever."""
    scheduler = scheduler_of(*remaining, is_ragged=False, max_run_steps=max_steps)
    line = scheduler.line()
    batch = scheduler.form(line)

    assert batch.jobs[0].session is line[0]
    assert all(length == batch.num_steps for length in batch.lengths)
    assert all(batch.num_steps <= job.num_total for job in batch.jobs)
    assert len(scheduler) == len(remaining) - len(batch)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=12), st.booleans(), st.integers(1, 64))
@settings(max_examples=40)
def test_everyone_gets_done(lengths: list[int], is_ragged: bool, max_steps: int) -> None:
    """Every chunk runs exactly its own steps, each run stays in bounds, and the line empties."""
    scheduler = scheduler_of(*lengths, is_ragged=is_ragged, max_run_steps=max_steps)
    jobs = [session.jobs[0] for session in scheduler.line()]
    for _ in range(sum(lengths)):
        if not (line := scheduler.line()):
            break
        batch = scheduler.form(line)
        assert all(1 <= length <= batch.num_steps <= max_steps for length in batch.lengths)
        assert max(batch.lengths) == batch.num_steps
        advance(scheduler, batch)

    assert len(scheduler) == 0
    assert [job.num_done for job in jobs] == lengths


def test_new_singles_do_not_starve_a_prefix() -> None:
    """A long chunk goes on in every run, however many single steps keep coming in beside it."""
    scheduler = scheduler_of(40, 1, 1, 1, is_ragged=False)
    prefix = scheduler.line()[0].jobs[0]
    for round_ in range(40):
        batch = scheduler.form(scheduler.line()[:4])
        advance(scheduler, batch)
        for index in range(3):
            scheduler.add(make_session(f"{round_}.{index}", 1))

    assert prefix.num_done == 40


def test_the_line_keeps_its_order() -> None:
    """Sessions stay in line as they came, once each; adding one that is in line leaves it at its place."""
    scheduler = scheduler_of(1, 1, 1)
    first, second, third = scheduler.line()
    scheduler.add(first)
    assert names(scheduler.line()) == "012"
    scheduler.discard(second)
    scheduler.discard(second)
    assert names(scheduler.line()) == "02"
    scheduler.add(second)
    assert names(scheduler.line()) == "021"
    assert third in scheduler.line()


def test_a_batch_leaves_the_line() -> None:
    """Sessions in a batch are out of the line and marked as running; the others are neither."""
    scheduler = scheduler_of(3, 5, 1)
    *chosen, other = scheduler.line()
    batch = scheduler.form(chosen)

    assert [job.session for job in batch.jobs] == chosen
    assert batch.lengths == [3, batch.num_steps] if batch.num_steps >= 3 else [batch.num_steps] * 2
    assert [session.is_running for session in (*chosen, other)] == [True, True, False]
    assert scheduler.line() == [other]


def test_only_sessions_of_one_constant_run_together() -> None:
    """The line is of those that share what the first has; the others have their turn when they are first."""
    scheduler = Scheduler(4, 64, is_ragged=True, constants=lambda rows: rows["rate"].tobytes())
    for name, rate in zip("0123", (8, 16, 8, 16), strict=True):
        session = make_session(name, 1)
        session.contexts = {"rate": np.array(rate)}
        scheduler.add(session)

    assert names(scheduler.line()) == "02"
    scheduler.form(scheduler.line())
    assert names(scheduler.line()) == "13"

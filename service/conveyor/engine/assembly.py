"""Turns a batch into a run's arrays, and the run's results back into what each job collects. Pure."""

from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from conveyor.engine.feeds import Feeds, Ints, Results, SampleFeeds, ScoreFeeds, TopFeeds
from conveyor.engine.job import ChunkJob, GenerationJob
from conveyor.engine.noise import draw_noise
from conveyor.engine.sampler import uniforms
from conveyor.engine.scheduler import Batch
from conveyor.engine.work import Array
from conveyor.signature import NoiseSpec, Signature, TensorSpec


@dataclass(slots=True)
class Assembly:
    """A batch's feeds, and who gets which part of the results: jobs in the order of their rows."""

    feeds: Feeds
    tops: list[tuple[ChunkJob | GenerationJob, int, int]] = field(default_factory=list)  # job, rows, its own k
    scored: list[tuple[ChunkJob, int]] = field(default_factory=list)  # job, rows
    drawn: list[GenerationJob] = field(default_factory=list)
    raw: list[tuple[ChunkJob, int, int, int]] = field(default_factory=list)  # job, column, steps from, to


class Assembler:
    """Knows the model's layout; `assemble` and `absorb` bracket a run."""

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._token_input = signature.inputs[0] if signature.takes_tokens else None
        self._has_contexts = bool(signature.contexts)
        axis = signature.logits.axis if signature.logits else None
        self._is_batch_major = axis is not None and axis.time is not None and (axis.batch or 0) < axis.time

    def assemble(self, batch: Batch) -> Assembly:
        """The arrays of one run. Every job needs its slot, and every session its own or its restore."""
        feeds = Feeds(
            batch.num_steps,
            self._inputs(batch),
            np.array(batch.lengths, np.int32),
            # A job that goes on reads what it wrote; one that starts reads its session's state.
            np.array([job.slot if job.num_done else job.session.slot for job in batch.jobs], np.int64),
            np.array([job.slot for job in batch.jobs], np.int64),
            spill_slots=[session.slot for session in batch.spills],
            restores=[(session.slot, rows) for session, rows in batch.restores],
            contexts=[(session.context_slot, session.contexts or {}) for session in batch.contexts],
        )
        if batch.known:
            feeds.restores += [(job.slot, rows) for job, rows in batch.known]
        if self._has_contexts:
            feeds.context_slots = np.array([job.session.context_slot for job in batch.jobs], np.int64)
        assembly = Assembly(feeds)
        self._plan(batch, assembly)
        return assembly

    def _inputs(self, batch: Batch) -> dict[str, Array]:
        if self._token_input is None:
            inputs = {spec.name: to_layout(_stacked(batch, spec), spec) for spec in self._signature.inputs}
        else:
            inputs = {self._token_input.name: to_layout(_tokens(batch), self._token_input)}
        for number, noise in enumerate(self._signature.noises):
            inputs[noise.name] = to_layout(_drawn(batch, noise, number), noise)
        return inputs

    def _plan(self, batch: Batch, assembly: Assembly) -> None:
        """Names the rows of the flattened logits that each head must look at."""
        row_stride, column_stride = (1, batch.num_steps) if self._is_batch_major else (len(batch), 1)
        rows = _HeadRows(assembly, row_stride)
        for column, (job, length) in enumerate(zip(batch.jobs, batch.lengths, strict=True)):
            if isinstance(job, ChunkJob):
                rows.add_chunk(job, length, column, column * column_stride)
            elif isinstance(job, GenerationJob) and job.num_done + length == len(job.feed):
                rows.add_generation(job, column * column_stride + (length - 1) * row_stride)
        rows.write_feeds()

    @staticmethod
    def absorb(batch: Batch, assembly: Assembly, results: Results) -> None:
        """Gives each job its part of the results, and counts its steps and its time. Commits nothing."""
        _absorb_tops(assembly, results)
        row = 0
        for scored, num_rows in assembly.scored:
            scored.scores += results.scores[row : row + num_rows]
            row += num_rows
        for generation, token, score in zip(
            assembly.drawn, results.sampled_tokens, results.sampled_scores, strict=True
        ):
            generation.drawn = (token, score)
        for chunk, column, start, stop in assembly.raw:
            # Copied: a view would keep the whole batch's output alive for as long as the answer is kept.
            chunk.outputs.append({n: results.outputs[n][start:stop, column].copy() for n in chunk.chunk.want.names})
        for job, length in zip(batch.jobs, batch.lengths, strict=True):
            job.num_done += length
            job.run_seconds += results.run_seconds


def _absorb_tops(assembly: Assembly, results: Results) -> None:
    pairs = zip(results.top_tokens, results.top_scores, strict=True)
    for job, num_rows, k in assembly.tops:
        if isinstance(job, GenerationJob):
            job.top_tokens, job.top_scores = [], []  # its own are those of the last token
        for best, best_scores in islice(pairs, num_rows):
            job.top_tokens += best[:k]
            job.top_scores += best_scores[:k]


class _HeadRows:
    """Collects the rows of each head, and who they are for, job by job."""

    def __init__(self, assembly: Assembly, row_stride: int) -> None:
        self._assembly = assembly
        self._stride = row_stride
        self._top: list[int] = []
        self._score: list[int] = []
        self._targets: list[int] = []
        self._sample: list[int] = []

    def add_chunk(self, job: ChunkJob, length: int, column: int, first_row: int) -> None:
        want = job.chunk.want
        if want.scoring:
            self._score += range(first_row, first_row + length * self._stride, self._stride)
            self._targets += job.targets[job.num_done : job.num_done + length]
            self._assembly.scored.append((job, length))
            return
        start, stop = job.wanted(length)
        if want.top_k:
            self._top += range(first_row + start * self._stride, first_row + stop * self._stride, self._stride)
            self._assembly.tops.append((job, stop - start, want.top_k))
        if want.names and start < stop:
            self._assembly.raw.append((job, column, start, stop))

    def add_generation(self, job: GenerationJob, row: int) -> None:
        self._sample.append(row)
        self._assembly.drawn.append(job)
        if job.generation.top_k:
            self._top.append(row)
            self._assembly.tops.append((job, 1, job.generation.top_k))

    def write_feeds(self) -> None:
        assembly, feeds = self._assembly, self._assembly.feeds
        feeds.outputs = tuple(dict.fromkeys(name for job, *_ in assembly.raw for name in job.chunk.want.names))
        if self._top:
            feeds.top = TopFeeds(np.array(self._top, np.int64), max(k for _, _, k in assembly.tops))
        if self._score:
            feeds.score = ScoreFeeds(np.array(self._score, np.int64), np.array(self._targets, np.int64))
        if self._sample:
            feeds.sample = _sample_feeds(self._sample, assembly.drawn)


def to_layout(canonical: Array, spec: TensorSpec) -> Array:
    """Moves the axes of a `[T, B, ...]` array to where the graph has them; drops an axis that it has not (length 1)."""
    axis = spec.axis
    if axis.time == 0 and axis.batch == 1:
        return canonical
    if axis.time is None and axis.batch is None:
        alone: Array = canonical[0, 0, ...]  # an array even where it has no axis left
        return alone
    if axis.time is None:
        return np.ascontiguousarray(np.moveaxis(canonical[0], 0, axis.batch or 0))
    if axis.batch is None:
        return np.ascontiguousarray(np.moveaxis(canonical[:, 0], 0, axis.time))
    return np.ascontiguousarray(np.moveaxis(canonical, (0, 1), (axis.time, axis.batch)))


def from_layout(array: Array, spec: TensorSpec) -> Array:
    """The inverse of `to_layout`: a `[T, B, ...]` view of one of the graph's outputs."""
    axis = spec.axis
    if axis.time == 0 and axis.batch == 1:
        return array
    if axis.time is None and axis.batch is None:
        return array[np.newaxis, np.newaxis]
    if axis.time is None:
        return np.moveaxis(array, axis.batch or 0, 0)[np.newaxis]
    if axis.batch is None:
        return np.moveaxis(array, axis.time, 0)[:, np.newaxis]
    return np.moveaxis(array, (axis.time, axis.batch), (0, 1))


def _tokens(batch: Batch) -> Ints:
    if batch.num_steps == 1:
        return np.array([[job.feed[job.num_done] for job in batch.jobs]], np.int64)
    tokens = np.zeros((batch.num_steps, len(batch)), np.int64)
    for column, (job, length) in enumerate(zip(batch.jobs, batch.lengths, strict=True)):
        tokens[:length, column] = job.feed[job.num_done : job.num_done + length]
    return tokens


def _stacked(batch: Batch, spec: TensorSpec) -> Array:
    steps = np.zeros((batch.num_steps, len(batch), *spec.shape), spec.dtype)
    for column, (job, length) in enumerate(zip(batch.jobs, batch.lengths, strict=True)):
        if isinstance(job, ChunkJob):
            steps[:length, column] = job.chunk.inputs[spec.name][job.num_done : job.num_done + length]
    return steps


def _drawn(batch: Batch, spec: NoiseSpec, number: int) -> Array:
    seeds = np.array([job.session.seed for job in batch.jobs], np.uint64)
    first_steps = np.array([job.session.num_run + job.num_done for job in batch.jobs], np.uint64)
    return draw_noise(spec, number, seeds, first_steps, batch.num_steps)


def _sample_feeds(rows: list[int], jobs: list[GenerationJob]) -> SampleFeeds:
    samplings = [job.generation.sampling for job in jobs]
    width = max((len(job.seen) for job in jobs if job.generation.sampling.repetition_penalty != 1), default=0) or 1
    recent = np.full((len(jobs), width), -1, np.int64)
    for row, (job, sampling) in enumerate(zip(jobs, samplings, strict=True)):
        if sampling.repetition_penalty != 1:
            recent[row, : len(job.seen)] = job.seen
    return SampleFeeds(
        np.array(rows, np.int64),
        np.array([s.temperature for s in samplings], np.float32),
        np.array([s.top_k for s in samplings], np.int64),
        np.array([s.top_p for s in samplings], np.float32),
        np.array([s.repetition_penalty for s in samplings], np.float32),
        recent,
        uniforms(
            np.array([job.seed for job in jobs], np.uint64), np.array([job.draw_position for job in jobs], np.uint64)
        ),
    )

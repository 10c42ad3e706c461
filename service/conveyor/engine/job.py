"""Accepted work on its way: which rows of a run it takes, and what it makes of their results. Pure."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from math import nan
from typing import Any

import numpy as np

from conveyor.engine.drawn import Drawn
from conveyor.engine.session import MAX_REMEMBERED, Kept, Session
from conveyor.engine.spilled import Rows
from conveyor.engine.work import Answer, Array, Chunk, FinishReason, Generation, Sink, Token

# Answers that a session keeps for a client that has not acknowledged them. The latest is kept whatever its size.
MAX_KEPT = 16
MAX_KEPT_BYTES = 1 << 18


class Job(ABC):
    """What the scheduler sees of any work: how many steps it still has to run, and where its state is.

    The job's steps write to a slot of its own, `slot`; the session keeps the one it had until `commit`. So a job that
    fails or is cancelled half way leaves its session untouched.
    """

    __slots__ = (
        "arrived",
        "deadline",
        "feed",
        "is_cancelled",
        "num_done",
        "num_kept",
        "num_known",
        "num_steps",
        "num_total",
        "rows",
        "run_seconds",
        "session",
        "sink",
        "slot",
        "tag",
        "work",
    )

    def __init__(self, session: Session, work: Chunk | Generation, num_steps: int, now: float) -> None:
        self.session = session
        self.work = work
        self.sink: Sink = work.sink
        self.tag: Any = work.tag
        self.deadline = work.deadline
        self.arrived = now
        self.num_steps = num_steps  # what `position` gains once it is done; a generation counts its prompt here
        self.num_total = 0  # steps to run, known once the job is the first of its session
        self.run_seconds = 0.0  # what the runs took that they were in
        self.num_done = 0  # steps run, or known
        self.num_known = 0  # steps at the front whose state was in the prefix cache: they are not run again
        self.num_kept = 0  # steps up to the latest state of this job that went there
        self.rows: Rows | None = None  # the state after the known steps, until the job has a slot for it
        self.feed: list[int] = []  # the tokens of the steps to run, for a model of tokens
        self.slot = 0
        self.is_cancelled = False

    @property
    def has_started(self) -> bool:
        """True once a step has run, or is running, that is not part of the session's state yet."""
        return self.slot != 0

    @abstractmethod
    def begin(self) -> None:
        """Fixes the steps to run; called when the job becomes the first of its session."""

    @abstractmethod
    def commit(self) -> Answer | Token:
        """Moves the session past the steps that were run, and says what came of them."""


class ChunkJob(Job):
    """A chunk: runs its steps, collects what was wanted of them, answers once."""

    __slots__ = ("chunk", "lead", "outputs", "scores", "targets", "top_scores", "top_tokens")

    def __init__(self, session: Session, chunk: Chunk, tokens: list[int] | None, num_steps: int, now: float) -> None:
        super().__init__(session, chunk, num_steps, now)
        self.chunk = chunk
        self.feed = tokens or []
        self.lead = 0  # steps at the front that are not the chunk's own: the pending token
        self.targets: list[int] = []
        self.outputs: list[dict[str, Array]] = []
        self.top_tokens: list[int] = []
        self.top_scores: list[float] = []
        self.scores: list[float] = []

    def begin(self) -> None:
        if not self.feed:
            self.num_total = self.num_steps
            return
        pending = self.session.pending
        if pending is not None:
            self.feed = [pending, *self.feed]
            self.lead = 1
        if self.chunk.want.scoring:
            self.targets = self.feed[1:]
            if not self.lead:
                self.scores.append(nan)
        self.num_total = len(self.feed) - (1 if self.chunk.want.scoring else 0)

    def wanted(self, num_steps: int) -> tuple[int, int]:
        """Of the next `num_steps` steps, those (from, to) whose outputs are wanted."""
        end = self.num_done + num_steps
        first = max(self.num_done, self.num_total - 1 if self.chunk.want.last_only else self.lead)
        return min(first, end) - self.num_done, num_steps

    def commit(self) -> Answer:
        """Moves the session past this chunk; its slot must hold the state after the last step."""
        session, chunk, start = self.session, self.chunk, self.session.position
        session.position = start + self.num_steps
        session.pending = self.feed[-1] if chunk.want.scoring else None
        if session.seen is None and chunk.want.remember:
            session.seen = deque(maxlen=MAX_REMEMBERED)
        if session.seen is not None:
            session.seen.extend(self.feed[self.lead :])
        answer = Answer(
            session.session_id,
            session.position,
            self.num_steps,
            self._joined_outputs(),
            self.top_tokens,
            self.top_scores,
            self.scores,
            self.run_seconds,
        )
        session.kept = (*self._still_kept(), Kept(start, chunk.inputs, chunk.want, answer))
        return answer

    def _still_kept(self) -> list[Kept]:
        """The latest of the earlier answers that the client may not have."""
        session = self.session
        if not session.kept or session.kept[-1].answer.position <= session.acknowledged:
            return []
        kept = [kept for kept in session.kept if kept.answer.position > session.acknowledged][-MAX_KEPT + 1 :]
        while kept and sum(each.answer.num_bytes for each in kept) > MAX_KEPT_BYTES:
            del kept[0]
        return kept

    def _joined_outputs(self) -> dict[str, Array]:
        if len(self.outputs) <= 1:
            return self.outputs[0] if self.outputs else {}
        return {name: np.concatenate([part[name] for part in self.outputs]) for name in self.outputs[0]}


class GenerationJob(Job):
    """A generation: runs its prompt, then one step for each token; every token is a commit and an outcome."""

    __slots__ = (
        "drawn",
        "generation",
        "is_cut",
        "kept",
        "latest",
        "num_generated",
        "seed",
        "seen",
        "top_scores",
        "top_tokens",
    )

    def __init__(self, session: Session, generation: Generation, now: float) -> None:
        super().__init__(session, generation, len(generation.tokens), now)
        self.generation = generation
        self.feed = generation.tokens
        self.seed = session.seed if generation.seed is None else generation.seed
        self.num_generated = 0
        self.is_cut = False  # the prompt's last token is to have a run of its own
        self.drawn = (0, 0.0)  # token and log-probability that the last run drew
        self.top_tokens: list[int] = []
        self.top_scores: list[float] = []
        self.seen: deque[int] = deque(maxlen=generation.sampling.repetition_window)
        self.latest: deque[int] = deque(maxlen=max(map(len, generation.stop_sequences), default=1))
        self.kept = Drawn(session.position, generation, self.seed, session.seen or ())
        self.latest.extend(self.kept.resent)

    def repeat(self, drawn: Drawn, tokens: list[Token]) -> Iterator[Token]:
        """Begins with tokens that were drawn already, the latest of the session, and goes on with its generation.

        What it yields are those of them that this one asks for: the last of these may be at its end.
        """
        self.kept = drawn
        self.num_steps, self.feed, self.latest = 0, [], deque(drawn.before(tokens[0].position - 1), self.latest.maxlen)
        for token in tokens:
            self.num_generated += 1
            self.latest.append(token.token)
            token.finish_reason = self._finish()
            yield token
            if token.finish_reason is not None:
                return

    def begin(self) -> None:
        self.seen.extend(self.session.seen or ())
        self.seen.extend(self.feed)
        if self.session.pending is not None:
            self.feed = [self.session.pending, *self.feed]
        self.num_done = self.num_known
        self.num_total = len(self.feed) - self.is_cut

    def go_on(self) -> bool:
        """True if the job has stopped before its prompt's last token, which is now to be run."""
        is_cut, self.is_cut = self.is_cut, False
        self.num_total += is_cut
        return is_cut

    @property
    def draw_position(self) -> int:
        """The position that the next token will take: with the seed, the key of its random number."""
        return self.session.position + self.num_steps

    def commit(self) -> Token:
        """Moves the session past what was run and the token that was drawn, which becomes the feed."""
        token, log_probability = self.drawn
        self.session.position += self.num_steps + 1
        self.session.tail = self.session.position
        self.session.pending = token
        self._remember(token)
        self.num_steps = 0
        self.num_generated += 1
        self.feed, self.num_done, self.num_total = [token], 0, 1
        self.seen.append(token)
        self.latest.append(token)
        outcome = Token(
            self.session.session_id,
            self.session.position,
            token,
            log_probability,
            self.top_tokens,
            self.top_scores,
            self._finish(),
        )
        self.kept.add(outcome)
        self.session.drawn = self.kept
        return outcome

    def _remember(self, token: int) -> None:
        session = self.session
        if session.seen is None:
            session.seen = deque(maxlen=MAX_REMEMBERED)
        if not self.num_generated:
            session.seen.extend(self.generation.tokens)
        session.seen.append(token)

    def _finish(self) -> FinishReason | None:
        latest = tuple(self.latest)
        if any(latest[-len(stop) :] == stop for stop in self.generation.stop_sequences):
            return FinishReason.STOP
        if self.num_generated >= self.generation.max_tokens:
            return FinishReason.LENGTH
        return None

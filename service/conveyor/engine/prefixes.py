"""Follows what sessions consume from their beginning, so that a generation begins where another has been before."""

from array import array
from collections.abc import Callable, Sequence

import numpy as np

from conveyor.engine.job import ChunkJob, GenerationJob, Job
from conveyor.engine.prefix_cache import MAX_TOKENS, PrefixCache, Tokens
from conveyor.engine.session import Session
from conveyor.engine.spilled import Rows
from conveyor.signature import Signature

MIN_TOKENS = 16  # below, running again costs about as much as looking
SPACING = 128  # tokens between two states that are kept of a long chunk or prompt


class Prefixes:
    """The prefix cache of one model, and what goes into it.

    A session is followed while it has a `history`: the tokens that its state has seen, all since position 0. Kept are
    the states at the end of a chunk or a generation, one token before the end of a prompt, because the last token's
    logits are needed, and here and there in long ones. A shorter chunk ends the following: who steps pays nothing.

    `read` gives the rows of slots, and `tell` hears of each search how many tokens it found, 0 for none.
    """

    def __init__(
        self,
        signature: Signature,
        max_bytes: int,
        read: Callable[[Sequence[int]], list[Rows]],
        tell: Callable[[int], None],
    ) -> None:
        generates = signature.takes_tokens and signature.logits is not None
        # The state of a text is the same for all sessions only if nothing else goes into it.
        self.is_on = max_bytes > 0 and generates and not signature.contexts and not signature.noises
        self.cache = PrefixCache(max_bytes)
        self._read = read
        self._tell = tell
        self._due: list[tuple[int, Tokens]] = []  # slots whose states are to be kept, and their texts

    def prepare(self, job: GenerationJob, history: "array[int]") -> None:
        """Before a followed session's generation begins: where it may begin, and where it stops once to be kept."""
        prompt, session = job.generation.tokens, job.session
        if len(prompt) <= MIN_TOKENS:
            return
        if not session.position:
            found = self.cache.longest(prompt[:-1])
            if found is not None:
                job.num_known, job.rows = found
                job.num_kept = job.num_known
            self._tell(job.num_known)
        num_tokens = len(history) + len(prompt)
        job.is_cut = job.num_known < len(prompt) - 1 and num_tokens < MAX_TOKENS

    def ran(self, job: Job, history: "array[int]") -> None:
        """After a run of a followed session, before its job is committed: the job's slot has the state."""
        num_tokens = len(history) + job.num_done
        if num_tokens > MAX_TOKENS or (isinstance(job, ChunkJob) and job.num_total < MIN_TOKENS):
            job.session.history = None
            return
        is_done = job.num_done == job.num_total
        is_cut = is_done and isinstance(job, GenerationJob) and job.go_on()
        if is_cut or (is_done and isinstance(job, ChunkJob)) or job.num_done - job.num_kept >= SPACING:
            job.num_kept = job.num_done
            self._name(job.slot, history + array("q", job.feed[: job.num_done]))
        if is_done and not is_cut:
            history.extend(job.feed[: job.num_done])

    def rests(self, session: Session, history: "array[int]") -> None:
        """After the last token of a followed session's generation."""
        if len(history) >= MIN_TOKENS:
            self._name(session.slot, history)

    def _name(self, slot: int, text: "array[int]") -> None:
        tokens = np.array(text, np.int64)
        if not self.cache.touch(tokens):
            self._due.append((slot, tokens))

    def keep(self) -> None:
        """Reads the states that are to be kept; called after each run, before a slot that it wrote is written again."""
        if self._due:
            due, self._due = self._due, []
            for (_, tokens), rows in zip(due, self._read([slot for slot, _ in due]), strict=True):
                self.cache.put(tokens, rows)

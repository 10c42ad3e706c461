"""The rules of sessions, work and state, as one object: no I/O, no threads, the time is an argument.

Work is accepted; batches come out; results go in; outcomes wait in `outbox.ready` for whoever delivers them.
"""

from collections.abc import Callable

from conveyor.engine.assembly import Assembler, Assembly
from conveyor.engine.attachments import Attachments
from conveyor.engine.checkpointer import Checkpointer
from conveyor.engine.drawn import Drawn
from conveyor.engine.feeds import Results
from conveyor.engine.job import ChunkJob, GenerationJob, Job
from conveyor.engine.limits import Limits
from conveyor.engine.outbox import Outbox
from conveyor.engine.prefixes import Prefixes
from conveyor.engine.residence import Residence
from conveyor.engine.scheduler import STEP_ROWS, Batch, Scheduler
from conveyor.engine.session import Session
from conveyor.engine.spilled import Rows
from conveyor.engine.table import SessionTable
from conveyor.engine.validation import Validator
from conveyor.engine.work import Answer, Array, Chunk, EndReason, Generation, Sink, Token
from conveyor.errors import (
    Aborted,
    ConveyorError,
    DeadlineExceeded,
    NotFound,
    ResourceExhausted,
    RunFailed,
    Unavailable,
)
from conveyor.signature import Signature
from conveyor.store import Save

# A batch of this size has made the fixed cost of a step (`STEP_ROWS`) small beside that of its rows.
WORTHWHILE_SESSIONS = 8 * STEP_ROWS


class Core:
    """One model's sessions and their work."""

    def __init__(
        self,
        signature: Signature,
        limits: Limits,
        initial: dict[str, Array],
        prefixes: Prefixes,
        *,
        is_ragged: bool,
        max_run_steps: int,
        max_batch: int,
        constants: Callable[[Rows], bytes] | None = None,
    ) -> None:
        self._limits = limits
        self._validator = Validator(signature, limits)
        self._assembler = Assembler(signature)
        self._scheduler = Scheduler(max_batch, max_run_steps, is_ragged=is_ragged, constants=constants)
        self._prefixes = prefixes
        self.table = SessionTable(limits, is_followed=prefixes.is_on)
        # A run writes to spare slots, so there must be a batch of them beyond those that hold sessions.
        num_slots = limits.num_slots + max_batch
        # A session that leaves has its contexts in the arena until the run that it leaves by is over. Two batches may
        # be under way, and each of their sessions has two slots, which two others may have left.
        self.residence = Residence(num_slots, num_slots + 2 * max_batch, initial)
        self.checkpointer = Checkpointer()
        self.outbox = Outbox(self.checkpointer)
        self._num_running = 0  # sessions in batches that have not come back
        self.ended: list[tuple[Session, EndReason]] = []
        self.attachments = Attachments()

    @property
    def num_waiting(self) -> int:
        """Chunks and generations whose last outcome has not come up."""
        return self.outbox.num_waiting

    @property
    def batch_limit(self) -> int:
        """Most sessions of the next batch: half of the active ones, so that one half runs while the other is answered.

        A batch that would be too small to be worth it is not halved.
        """
        num_active = self._num_running + len(self._scheduler)
        return min(self._scheduler.max_batch, max(WORTHWHILE_SESSIONS, (num_active + 1) // 2))

    @property
    def num_ready(self) -> int:
        """Sessions that a batch could take now."""
        return len(self._scheduler)

    def accept(self, work: Chunk | Generation, now: float) -> None:
        """Queues work, or answers it at once from the kept answer.

        Raises:
            ConveyorError: it is refused; nothing has changed.
        """
        session = self._owned(work)
        job: Job
        if isinstance(work, Chunk):
            tokens, num_steps = self._validator.chunk(work)
            if (answer := session.kept_answer(work, num_steps)) is not None:
                self.outbox.num_waiting += 1
                self.outbox.tell(session, (work.sink, work.tag, answer), is_last=True)
                return
            session.check_order(work)
            job = ChunkJob(session, work, tokens, num_steps, now)
            acknowledged = work.acknowledged
        else:
            session.check_order(work)  # first: what is in flight decides whether a token is pending
            # A client that is elsewhere has to hear that: there, a token may be pending.
            is_elsewhere = work.position not in (None, session.tail)
            self._validator.generation(work, has_pending=is_elsewhere or session.pending is not None)
            job = GenerationJob(session, work, now)
            if session.drawn is not None and (again := session.drawn.asked_for(work, job.seed, session.session_id)):
                self._check_room()
                self._draw_again(job, session.drawn, again, now)
                return
            acknowledged = None
        session.check_position(work.position)
        self._check_room()
        session.acknowledged = session.tail if acknowledged is None else acknowledged
        if session.history is not None and isinstance(job, GenerationJob):
            self._prefixes.prepare(job, session.history)
        self._queue(session, job, now)

    def _owned(self, work: Chunk | Generation) -> Session:
        """The session of this work. One that its client has seen elsewhere since is not ours any more: it is let go."""
        session = self.table.get(work.session_id)
        if work.epoch and session.stored is not None and 0 < session.stored.epoch < work.epoch:
            self.end(session, EndReason.MOVED)
            session = self.table.get(work.session_id)  # raises NotFound
        return session

    def next_batch(self, now: float) -> tuple[Batch, Assembly] | None:
        """The next run, with its slots; None if no session can run."""
        chosen, victims = self._choose(self.batch_limit, now)
        if not chosen:
            return None
        batch = self._scheduler.form(chosen)
        self.residence.settle(batch, victims)
        self._num_running += len(batch)
        for victim in batch.spills:
            self._scheduler.discard(victim)
        return batch, self._assembler.assemble(batch)

    def _choose(self, limit: int, now: float) -> tuple[list[Session], list[Session]]:
        """The next batch's sessions, and those that leave the arena for them."""
        line = self._scheduler.line()
        if late := [session for session in line if session.jobs[0].deadline <= now]:
            for session in late:
                self._remove_from(session, 0, DeadlineExceeded("the deadline passed before the steps ran"))
            line = self._scheduler.line()
        if self.residence.has_room(limit):
            return line[:limit], []
        plan, chosen = self.residence.plan(), list[Session]()
        for session in line:
            if plan.admit(session):
                chosen.append(session)
                if len(chosen) == limit:
                    break
        return chosen, plan.victims

    def finish(self, batch: Batch, assembly: Assembly, results: Results, now: float) -> None:
        """Takes a run's results: commits what is complete and lets the sessions go on."""
        self._num_running -= len(batch)
        self.residence.confirm(batch, results.spilled)
        self._assembler.absorb(batch, assembly, results)
        for job in batch.jobs:
            job.session.is_running = False
            job.session.last_used = now
            if job.is_cancelled:
                self._drop(job)
                continue
            if (history := job.session.history) is not None:
                self._prefixes.ran(job, history)
            if job.num_done < job.num_total:
                self._scheduler.add(job.session)
            elif isinstance(job, ChunkJob):
                self._commit_chunk(job)
                self.checkpointer.advanced(job.session, now)
            elif isinstance(job, GenerationJob):
                self._commit_token(job)
                self.checkpointer.advanced(job.session, now)
        self._line_up(batch.spills)

    def fail(self, batch: Batch, results: Results, error_id: str) -> None:
        """Takes a failed run: its jobs fail, and its sessions are where they were before those jobs.

        `error_id` is what the log has the reason under.
        """
        self._num_running -= len(batch)
        self.residence.revoke(batch, results.spilled)
        for job in batch.jobs:
            job.session.is_running = False
            if job.is_cancelled:
                self._drop(job)
            else:
                self._remove_from(job.session, 0, RunFailed(error_id))
        self._line_up(batch.spills)

    def _line_up(self, sessions: list[Session]) -> None:
        """Sessions that were being spilled may have got work meanwhile, lost it again, or ended."""
        for session in sessions:
            if not session.is_open:
                self._free(session)
            elif session.jobs and session.jobs[0].is_cancelled:
                self._drop(session.jobs[0])
            elif session.jobs:
                self._scheduler.add(session)

    def cancel(self, work: Chunk | Generation) -> None:
        """Forgets work that has not finished. Its sink hears no more of it."""
        try:
            session = self.table.get(work.session_id)
        except (NotFound, Unavailable):
            return
        for index, job in enumerate(session.jobs):
            if job.work is work and not job.is_cancelled:
                self._remove_from(session, index, None)
                return

    def stop_work(self, error: ConveyorError) -> None:
        """Fails all work that has not finished; the sessions stay where it has brought them."""
        for session in self.table:
            if session.jobs:
                self._remove_from(session, 0, error)

    def detach(self, sink: Sink) -> None:
        """Forgets a sink, and its unfinished work in the sessions that it was the last to step."""
        for session in self.attachments.forget(sink):
            jobs = enumerate(session.jobs)
            index = next((i for i, job in jobs if job.sink is sink and not job.is_cancelled), None)
            if index is not None:
                self._remove_from(session, index, None)
        self.outbox.forget(sink)

    def end(self, session: Session, reason: EndReason) -> None:
        """Ends a session; its waiting work fails, its slots are freed once no run uses them."""
        self.table.remove(session)
        self._scheduler.discard(session)
        problem = session.problem_of(reason)
        self.outbox.refuse(session, problem)
        for job in list(session.jobs):
            self._settle(job, problem)
            job.is_cancelled = True
        session.kept, session.drawn, session.history = (), None, None
        self.checkpointer.forget(session)
        if session.is_running:
            self.residence.forget(session)
        else:
            self._free(session)
        self.ended.append((session, reason))
        self.attachments.leave(session)

    def _free(self, session: Session) -> None:
        for job in session.jobs:
            self.residence.release(job)
        session.jobs.clear()
        self.residence.evict(session)

    def _draw_again(self, job: GenerationJob, drawn: Drawn, tokens: list[Token], now: float) -> None:
        """Sends the tokens that were drawn already of what this asks for, then draws on if they are not all of it."""
        self.outbox.num_waiting += 1
        for token in job.repeat(drawn, tokens):
            is_last = token.finish_reason is not None
            self.outbox.tell(job.session, (job.sink, job.tag, token), is_last=is_last)
            if is_last:
                return
        self.outbox.num_waiting -= 1
        self._queue(job.session, job, now)

    def _check_room(self) -> None:
        if self.outbox.num_waiting >= self._limits.max_waiting_chunks:
            raise ResourceExhausted("queue", f"{self.outbox.num_waiting} requests are waiting, the most allowed")

    def _queue(self, session: Session, job: Job, now: float) -> None:
        session.jobs.append(job)
        if isinstance(job, ChunkJob):
            session.drawn = None
        session.tail += job.num_steps
        session.last_used = now
        if job.sink.stays and session.sink is not job.sink:
            self.attachments.attach(session, job.sink)
        self.outbox.num_waiting += 1
        if len(session.jobs) == 1:
            self._begin_first(session)

    def _begin_first(self, session: Session) -> None:
        """Puts the session in line with its first job; a job with nothing to run is done at once."""
        while session.jobs:
            job = session.jobs[0]
            job.begin()
            if job.num_total:
                if not session.is_running:
                    self._scheduler.add(session)
                return
            session.jobs.popleft()
            self._settle(job, job.commit())
            self.checkpointer.advanced(session, job.arrived)

    def _commit_chunk(self, job: ChunkJob) -> None:
        session = job.session
        self.residence.commit(job)
        session.jobs.popleft()
        self._settle(job, job.commit())
        if session.jobs:
            self._begin_first(session)

    def _commit_token(self, job: GenerationJob) -> None:
        session = job.session
        self.residence.commit(job)
        token = job.commit()
        if token.finish_reason is None:
            self.outbox.tell(session, (job.sink, job.tag, token), is_last=False)
            self._scheduler.add(session)
            return
        session.jobs.popleft()
        if session.history is not None:
            self._prefixes.rests(session, session.history)
        self._settle(job, token)
        self._begin_first(session)

    def _settle(self, job: Job, outcome: Answer | Token | ConveyorError) -> None:
        """Tells the last of a job, unless nobody listens."""
        if not job.is_cancelled:
            self.outbox.tell(job.session, (job.sink, job.tag, outcome), is_last=True)

    def stored(self, session: Session, save: Save) -> None:
        """Takes note of a checkpoint in the store: the outcomes that waited for it go out."""
        if session.stored is not None:
            session.stored.add(save.position, save.oldest, save.latest)
            self.outbox.stored(session)

    def not_stored(self, session: Session, error: ConveyorError, now: float) -> None:
        """Takes note that a checkpoint did not get to the store: outcomes that waited for it become this error.

        The session is where it is: who asks again is answered once the store has it.
        """
        self.checkpointer.failed(session, now)
        self.outbox.refuse(session, error)
        first = session.jobs[0] if session.jobs else None
        is_sync = session.stored is not None and session.stored.is_sync
        if is_sync and isinstance(first, GenerationJob) and first.num_generated and not first.is_cancelled:
            self._remove_from(session, 0, error)  # its tokens cannot be sent, so those after them cannot either

    def _remove_from(self, session: Session, index: int, error: ConveyorError | None) -> None:
        """Fails a job with an error, or cancels it without a word, and aborts those that were to follow it."""
        removed = [session.jobs.pop() for _ in range(len(session.jobs) - index)][::-1]
        for behind in removed[1:]:
            self._settle(behind, Aborted("position: the request before this one failed"))
        first = removed[0]
        if error is not None:
            self._settle(first, error)
        elif not first.is_cancelled:
            self.outbox.num_waiting -= 1
        first.is_cancelled = True
        if index == 0 and session.is_running:
            session.jobs.append(first)  # its run, or its session's spill, is under way; `finish` drops it
        else:
            self.residence.release(first)
        if not session.jobs:
            self._scheduler.discard(session)
        session.tail = session.position + sum(job.num_steps for job in session.jobs if not job.is_cancelled)

    def _drop(self, job: Job) -> None:
        """Removes a job that was cancelled, or whose session was ended, while a run held it."""
        session = job.session
        if not session.is_open:
            self._free(session)
            return
        self.residence.release(job)
        session.jobs.popleft()
        self._begin_first(session)

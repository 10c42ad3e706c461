"""The chunks of one session that are on their way, in order, and what becomes of them when one fails. No I/O.

An answer is taken only if it is the next one due, and of no lower epoch than any before it; else it is asked for again.
So each goes to its caller once and in order, whichever servers held the session meanwhile.
"""

from collections import deque
from typing import TYPE_CHECKING

from conveyor.client.backoff import Backoff
from conveyor.client.errors import (
    Aborted,
    ClientError,
    NotFound,
    ReplayLost,
    ResourceExhausted,
    StepTimeout,
    WrongPosition,
)
from conveyor.client.fate import Fate
from conveyor.client.pending import Pending
from conveyor.client.replay import Replay
from conveyor.v1 import step_pb2

if TYPE_CHECKING:
    from conveyor.client.stream import Stream

# A chunk that failed so was not taken.
_UNTAKEN = {Aborted.default_code, NotFound.default_code, ResourceExhausted.default_code, WrongPosition.default_code}


class Lane:
    """One session's chunks in flight.

    `position` is what the server has confirmed; `next_position` counts the chunks in flight.
    `is_loose` is set where the server may be further than it has told: after a generation that was left early.
    `epoch` is the highest seen. `replay` is None for a session that is never sent again. With `has_peers` there are
    several servers, of which one that does not have the session may be asked.
    """

    __slots__ = (
        "__weakref__",
        "_backoff",
        "chunks",
        "epoch",
        "fate",
        "has_peers",
        "is_adrift",
        "is_loose",
        "is_unproven",
        "must_resume",
        "next_position",
        "position",
        "replay",
        "replayed_steps",
        "session_id",
        "shard",
        "stream",
    )

    def __init__(
        self,
        session_id: str,
        position: int,
        *,
        shard: str = "",
        has_peers: bool = False,
        epoch: int = 0,
        replay: Replay | None = None,
    ) -> None:
        self.session_id = session_id
        self.shard = shard
        self.has_peers = has_peers
        self.epoch = epoch
        self.replay = replay
        self.replayed_steps = 0
        self.chunks: deque[Pending] = deque()
        self.stream: Stream | None = None
        self.is_unproven = True  # nothing was answered since it took its stream, or since it was not found
        self.is_adrift = False  # its stream leads elsewhere than the session: it is to take another
        self.must_resume = False  # answers are lost: the session is to go back to where they can be given again
        self.fate = Fate(session_id)
        self._backoff: Backoff | None = None
        self.settle(position)

    def settle(self, position: int) -> None:
        """Takes the server's word for the position; nothing may be in flight."""
        self.position = self.next_position = position
        self.is_loose = False
        if self.replay is not None and self.replay.end != position:
            self.replay.reset(position)

    def join(self, stream: "Stream") -> None:
        """Takes a stream to go on, which leads to where the session's shard is now."""
        self.stream = stream
        self.is_unproven = True
        self.is_adrift = False

    def found(self, position: int, epoch: int) -> None:
        """Takes what a server tells of a session that it was asked to resume.

        If it is behind what was answered, the next chunk will find out too, and lead it back here.
        """
        if self.sees(epoch) and not self.chunks and position >= self.position:
            self.settle(position)

    def went_back(self, epoch: int) -> None:
        """Takes the news that a server has the session where all answers can be had again."""
        self.sees(epoch)
        self.must_resume = False
        for pending in self.chunks:
            pending.may_be_taken = False  # what is refused now is not what was taken

    def end(self, reason: str, position: int) -> None:
        """Takes the news that the server has ended the session. It may go on elsewhere."""
        self.fate.end(reason, position)
        self.is_unproven = self.is_adrift = not self.fate.is_ended

    def lose(self, now: float) -> None:
        """Takes the news that the connection or the server was lost."""
        self.fate.lose(now)
        self.is_unproven = True  # its stream may lead elsewhere from now on
        for pending in self.chunks:
            pending.may_be_taken |= pending.is_sent

    def append(self, pending: Pending) -> bool:
        """Puts a chunk behind those in flight, at its position. False if it must wait for `restart`."""
        chunk = pending.chunk
        chunk.position = self.next_position
        if self.chunks:
            chunk.acknowledged_position = self.position
        if self.epoch:
            chunk.epoch = self.epoch
        self.next_position += pending.num_steps
        is_free = not self.chunks or self.chunks[0].is_sent
        self.chunks.append(pending)
        return is_free

    def answered(self, pending: Pending, result: step_pb2.StepResult) -> bool:
        """Takes the answer of the oldest chunk. False if this is none to take: it must be asked for again."""
        is_fenced = result.epoch != self.epoch and not self.sees(result.epoch)
        if is_fenced or self.chunks[0] is not pending:
            pending.is_sent, pending.may_be_taken = False, True
            return False
        self.chunks.popleft()
        self._backoff = None
        if self.is_unproven:
            self.is_unproven = self.is_adrift = False
            self.fate.live()
        if pending.future is None:
            self.replayed_steps += pending.num_steps
            return True
        self.position = position = result.position
        self.is_loose = False
        if self.replay is not None:
            self.replay.keep(pending.chunk, pending.tokens, position - pending.num_steps, pending.num_steps)
            self.stored(result.durable_position)
        if not pending.future.done():
            pending.future.set_result(result)
        return True

    def sees(self, epoch: int) -> bool:
        """Takes note of an epoch; False if it is lower than one before it: a server speaks that lost the session."""
        if epoch < self.epoch:
            return False
        self.epoch = epoch
        return True

    def stored(self, durable_position: int) -> None:
        """Takes the news of a checkpoint: what came before it need not be sent again."""
        if self.replay is not None and durable_position > self.replay.start:
            self.replay.forget(min(durable_position, self.position))

    def drew(self, position: int, tokens: list[int]) -> None:
        """Takes tokens that a generation consumed, of its prompt and drawn, which lead to a position."""
        if self.replay is not None:
            self.replay.keep_generated(position - len(tokens), tokens)
        self.fate.live()
        self.position = self.next_position = position

    def failed(self, pending: Pending, error: ClientError, now: float) -> list[Pending]:
        """Takes the failure of a chunk. Returns the chunks that are given up; the others wait to be sent again."""
        pending.is_sent = False
        pending.may_be_taken |= error.code not in _UNTAKEN
        self.sees(error.epoch)
        if self.chunks[0] is not pending:  # one ahead of it failed first and will be sent again
            if isinstance(error, Aborted | WrongPosition | NotFound):
                return []
        elif isinstance(error, WrongPosition) and error.position is not None:
            return self._follow(pending, error, error.position)
        if now < pending.deadline and (error.is_retriable or self._looks_elsewhere(error, now)):
            return []
        return self.give_up(pending, error)

    def _looks_elsewhere(self, error: ClientError, now: float) -> bool:
        """Whether to take another stream, because this one may lead elsewhere than the session."""
        # A session that was just opened may be where its shard is by now, and the stream where it was; and one that is
        # stored may be another server's by now. One that is not stored has to be looked for.
        is_first = self.fate.is_first_doubt(error) and (self.is_unproven or self.epoch > 0)
        if is_first:
            self.suspect(now)
        self.is_adrift = is_first or self.fate.is_doubtful(error, now, is_stored=self.epoch > 0)
        self.must_resume = self.is_adrift and not self.epoch
        self.is_unproven |= isinstance(error, NotFound)
        return self.is_adrift

    def suspect(self, now: float) -> None:
        """Takes the first NOT_FOUND. With several servers the right one may be left out for a moment, as by a pause."""
        if self.has_peers:
            self.fate.suspect(now)

    def _follow(self, pending: Pending, error: WrongPosition, position: int) -> list[Pending]:
        """Goes to where the server has the session, from where the oldest chunk has it."""
        if self.is_loose and position >= self.position:
            self._rebase(position)
            return []
        if not pending.is_replay and position > pending.chunk.position:
            if not (self.epoch and pending.may_be_taken):
                return self.give_up(pending, error)  # somebody else moved the session, or its answer is lost
            self.must_resume = True
            return []
        try:
            return self._rewind(position)
        except ReplayLost as lost:
            return self.give_up(pending, lost)

    def _rebase(self, position: int) -> None:
        self.settle(position)
        for pending in self.chunks:
            pending.chunk.position = self.next_position
            self.next_position += pending.num_steps

    def _rewind(self, position: int) -> list[Pending]:
        """Puts before the chunks in flight what leads to them from a position. Returns what stood there."""
        again: list[Pending] = []
        if position < self.position:
            # A chunk that was consumed and given up is not kept: there is no way back from behind it.
            if self.replay is None or self.replay.end != self.position:
                raise ReplayLost(self.session_id, position, self.position)
            again = [Pending(self, chunk, num_steps) for chunk, num_steps in self.replay.after(position)]
        former = self._drop_replays()
        self.chunks.extendleft(reversed(again))
        return former

    def _drop_replays(self) -> list[Pending]:
        dropped: list[Pending] = []
        while self.chunks and self.chunks[0].is_replay:
            dropped.append(self.chunks.popleft())
        return dropped

    def give_up(self, pending: Pending, error: ClientError) -> list[Pending]:
        """Fails a chunk, and those behind it unless it was consumed. Returns them, and what was sent for their sake."""
        error = self.fate.explain(error)
        start = pending.chunk.position
        found = error.position if isinstance(error, WrongPosition) else None
        was_consumed = found is not None and found >= start + pending.num_steps
        # If it was, those behind it may still be answered.
        lost = [pending] if was_consumed else list(self.chunks)[self.chunks.index(pending) :]
        for each in lost:
            self.chunks.remove(each)
        _tell([each for each in lost if not each.is_replay], error)
        if all(each.is_replay for each in self.chunks):
            lost += self._drop_replays()
            self._go_on(start, error)
        elif was_consumed:
            self.position = start + pending.num_steps
        else:
            self.next_position = start
        return lost

    def _go_on(self, start: int, error: ClientError) -> None:
        """Decides where the next chunk begins, now that none is in flight."""
        if error.position is not None and isinstance(error, WrongPosition):
            self.settle(error.position)
        else:
            self.next_position = max(start, self.position)

    def expired(self, pending: Pending) -> list[Pending]:
        """Gives up a chunk whose deadline has passed, and those behind it. Returns them.

        The next chunk will have its position. If it was taken, the server answers the same chunk from the kept answer
        and refuses any other: nothing is taken twice.
        """
        timeout = StepTimeout("no answer in time", position=pending.chunk.position)
        return self.give_up(pending, self.fate.explain_silence(timeout))

    @property
    def must_resend(self) -> bool:
        """True if chunks wait to be sent again, and no answer is due that could still change which."""
        return bool(self.chunks) and not any(pending.is_sent for pending in self.chunks)

    def restart(self) -> deque[Pending]:
        """All that is to be sent again, in order, with what has been learnt since."""
        self.must_resume = False
        for pending in self.chunks:
            pending.is_sent = True
            pending.chunk.acknowledged_position = self.position
            if self.epoch:
                pending.chunk.epoch = self.epoch
        return self.chunks

    def retry_delay(self, error: ClientError) -> float:
        """Seconds until `restart`."""
        is_first, self._backoff = self._backoff is None, self._backoff or Backoff()
        if is_first and isinstance(error, WrongPosition):
            return 0.0
        return self._backoff.next(error.retry_after)


def _tell(lost: list[Pending], error: ClientError) -> None:
    """Fails chunks for an error of the first of them."""
    for number, each in enumerate(lost):
        is_told = number == 0 or isinstance(error, NotFound)
        each.fail(error if is_told else Aborted(f"a step before it failed: {error.message}"))

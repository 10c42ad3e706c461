"""Servers, their store and a client's lane without connections: what may happen to one session, step by step."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from conveyor.client.errors import ClientError, FailedPrecondition, ReplayLost, WrongPosition
from conveyor.client.lane import Lane
from conveyor.client.pending import Pending
from conveyor.client.replay import Replay
from conveyor.v1 import step_pb2

NUM_SERVERS = 3
MAX_KEPT = 2
Outcome = tuple[int, step_pb2.StepResult | ClientError]


@dataclass
class Held:
    """A session in a server's memory. `tokens` are all that it consumed; `kept` are a few, by where they begin."""

    epoch: int
    tokens: list[int]
    acknowledged: int
    kept: dict[int, step_pb2.Chunk] = field(default_factory=dict)


class Store:
    """The checkpoints of one session: an epoch, and the tokens that each position has behind it."""

    def __init__(self) -> None:
        self.epoch = 0
        self.checkpoints: dict[int, list[int]] = {0: []}

    def acquire(self, received: int) -> Held:
        """Takes the session at the newest checkpoint that is not ahead of its client."""
        self.epoch += 1
        place = self.base(received)
        return Held(self.epoch, list(self.checkpoints[place]), place)

    def base(self, received: int) -> int:
        """Where a client that has answers up to here would begin."""
        if (place := self.behind(received)) is None:
            raise FailedPrecondition("every checkpoint is ahead of the client")
        return place

    def behind(self, received: int) -> int | None:
        """The newest checkpoint that is not ahead of this position."""
        return max((place for place in self.checkpoints if place <= received), default=None)


class World:
    """Three servers of one store, and a client whose stream leads to one of them at a time."""

    def __init__(self, max_bytes: int) -> None:
        self.store = Store()
        self.servers: list[Held | None] = [self.store.acquire(0), *[None] * (NUM_SERVERS - 1)]
        self.leads_to = 0
        self.requests: deque[step_pb2.Chunk] = deque()
        self.outcomes: deque[Outcome] = deque()
        self.lane = Lane("s", 0, epoch=self.store.epoch, replay=Replay("s", 0, max_bytes))
        self.pending: dict[int, Pending] = {}
        self.futures: list[asyncio.Future[step_pb2.StepResult]] = []
        self.given: list[int] = []  # every token that the client ever gave
        self.ends: list[int] = []  # where each of its chunks ends
        self.loop = asyncio.new_event_loop()

    # The client.

    def give(self, tokens: list[int], scores: bool) -> None:
        """Steps without waiting."""
        chunk = step_pb2.Chunk(session_id="s", tokens=tokens, scoring=step_pb2.Scoring() if scores else None)
        future: asyncio.Future[step_pb2.StepResult] = self.loop.create_future()
        pending = Pending(self.lane, chunk, len(tokens), tokens, future=future)
        self.futures.append(future)
        self.given += tokens
        self.ends.append(len(self.given))
        if self.lane.append(pending):
            self._send(pending)

    def _send(self, pending: Pending) -> None:
        if not pending.request_id:
            pending.request_id = pending.chunk.request_id = len(self.pending) + 1
            self.pending[pending.request_id] = pending
        pending.is_sent = True
        self.requests.append(step_pb2.Chunk.FromString(pending.chunk.SerializeToString()))

    def hear(self) -> None:
        """Takes the next outcome on the stream."""
        request_id, outcome = self.outcomes.popleft()
        pending = self.pending[request_id]
        if pending not in self.lane.chunks:
            return
        if isinstance(outcome, ClientError):
            self.lane.failed(pending, outcome, 0.0)
        else:
            self.lane.answered(pending, outcome)
        if self.lane.must_resend:
            self._resend()

    def _resend(self) -> None:
        if self.lane.must_resume:
            held = self.servers[self.leads_to]
            if held is None or self.lane.position not in held.kept:
                held = self._resume(self.leads_to)
            if held is None:
                self.lane.give_up(self.lane.chunks[0], FailedPrecondition("nowhere to go on"))
                return
            self.lane.went_back(held.epoch)
        for pending in self.lane.restart():
            self._send(pending)

    def reconnect(self, server: int) -> None:
        """Loses all that is under way, and leads the stream to another server."""
        self.requests.clear()
        self.outcomes.clear()
        self.leads_to = server
        self.lane.lose(0.0)
        self._resend()

    # The servers.

    def serve(self) -> None:
        """Has the stream's server take the next chunk."""
        chunk = self.requests.popleft()
        try:
            self.outcomes.append((chunk.request_id, self._step(chunk)))
        except ClientError as error:
            self.outcomes.append((chunk.request_id, error))

    def _step(self, chunk: step_pb2.Chunk) -> step_pb2.StepResult:
        acknowledged = chunk.acknowledged_position if chunk.HasField("acknowledged_position") else chunk.position
        held = self.servers[self.leads_to]
        if held is None or held.epoch < chunk.epoch:
            held = self.servers[self.leads_to] = self.store.acquire(acknowledged)
        end = chunk.position + len(chunk.tokens)
        if chunk.position == len(held.tokens):
            held.tokens += chunk.tokens
            held.acknowledged = acknowledged
            held.kept[chunk.position] = chunk
            held.kept = dict(list(held.kept.items())[-MAX_KEPT:])
        elif chunk.position not in held.kept or held.kept[chunk.position].tokens != chunk.tokens:
            raise WrongPosition("elsewhere", position=len(held.tokens))
        durable = self.store.behind(acknowledged)
        # The outcome tells what the session consumed, so that a wrong state cannot pass.
        return step_pb2.StepResult(
            position=end, log_probabilities=held.tokens[:end], durable_position=durable, epoch=held.epoch
        )

    def save(self, server: int) -> None:
        """Has a server store a checkpoint; one that has lost the session finds out."""
        held = self.servers[server]
        if held is None or held.epoch < self.store.epoch:
            self.servers[server] = None
            return
        base = self.store.base(held.acknowledged)
        newest = max(self.store.checkpoints)
        self.store.checkpoints[len(held.tokens)] = list(held.tokens)
        kept = {base, newest, len(held.tokens)}
        self.store.checkpoints = {place: tokens for place, tokens in self.store.checkpoints.items() if place in kept}

    def crash(self, server: int) -> None:
        """Has a server forget the session."""
        self.servers[server] = None

    def steal(self, server: int) -> None:
        """Has a server take the session, as another call of the client's would have it."""
        if held := self._resume(server):
            self.lane.found(len(held.tokens), held.epoch)

    def _resume(self, server: int) -> Held | None:
        """A call of the client's. It fails only once the client was told that it lacks inputs: it may be anywhere."""
        try:
            held = self.servers[server] = self.store.acquire(self.lane.position)
        except FailedPrecondition:
            assert any(isinstance(future.exception(), ReplayLost) for future in self.futures if future.done())
            return None
        return held

    def settle(self) -> None:
        """Lets everything that is under way arrive."""
        for _ in range(10_000):
            if self.requests:
                self.serve()
            elif self.outcomes:
                self.hear()
            else:
                return
        raise AssertionError("the session does not come to rest")

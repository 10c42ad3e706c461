"""The streams that a client's sessions share: one for each shard, opened when a session needs it."""

import asyncio
from collections.abc import Sequence
from time import monotonic
from weakref import WeakValueDictionary

from conveyor.client.connection import Connection
from conveyor.client.errors import Unavailable
from conveyor.client.lane import Lane
from conveyor.client.replay import Replay
from conveyor.client.stream import Stream
from conveyor.v1 import session_pb2, step_pb2


class Streams:
    """Knows the lanes of all sessions, and which stream carries each. `replay_bytes` bounds what each keeps."""

    def __init__(self, connection: Connection, replay_bytes: int) -> None:
        self._connection = connection
        self._replay_bytes = replay_bytes
        self._lanes: WeakValueDictionary[str, Lane] = WeakValueDictionary()
        self._newest: dict[str, Stream] = {}  # by shard
        self._open: set[Stream] = set()
        self._is_closed = False

    def new_lane(self, session: session_pb2.Session, shard: str) -> Lane:
        """A lane for a session that has just been opened; one before of the same id has ended."""
        session_id, position = session.session_id, session.position
        # With SYNC too: one checkpoint may let several answers out, of which not all may arrive.
        replay = Replay(session_id, position, self._replay_bytes) if session.epoch else None
        lane = self._lanes[session_id] = Lane(
            session_id,
            position,
            shard=shard,
            has_peers=self._connection.shards.count > 1,
            epoch=session.epoch,
            replay=replay,
        )
        return lane

    def lane(self, session: session_pb2.Session, shard: str) -> Lane:
        """The lane of a session that is open, shared by all who hold it here."""
        lane = self._lanes.get(session.session_id)
        if lane is None or lane.fate.is_ended:
            return self.new_lane(session, shard)
        lane.found(session.position, session.epoch)
        lane.shard = shard
        return lane

    def known(self, session_id: str) -> Lane | None:
        """The lane of a session, if somebody here holds it."""
        return self._lanes.get(session_id)

    def submit(
        self, lane: Lane, chunk: step_pb2.Chunk, num_steps: int, tokens: Sequence[int], timeout: float
    ) -> "asyncio.Future[step_pb2.StepResult]":
        """Sends a chunk, of these tokens if any, at the lane's next position.

        The future holds its answer or a ClientError. `tokens` must not change any more.

        Raises:
            Unavailable: the client is closed.
            SessionEnded: the server has ended the session.
        """
        if self._is_closed:
            raise Unavailable("the client is closed")
        lane.fate.check_open()
        stream = lane.stream or self.join(lane)
        return stream.submit(lane, chunk, num_steps, tokens, monotonic() + timeout)

    def join(self, lane: Lane) -> Stream:
        """Gives a lane the newest stream of its shard."""
        stream = self._newest.get(lane.shard)
        if stream is None:
            stream = self._newest[lane.shard] = Stream(self, self._connection, lane.shard)
            self._open.add(stream)
        stream.lanes.add(lane)
        lane.join(stream)
        return stream

    def leave(self, lane: Lane) -> None:
        """Takes a lane from a stream that leads elsewhere than the session. No other will join that stream."""
        if lane.stream is not None and self._newest.get(lane.stream.shard) is lane.stream:
            del self._newest[lane.stream.shard]
        self.release(lane)

    def release(self, lane: Lane) -> None:
        """Takes a lane from its stream, which ends with its last one."""
        stream, lane.stream = lane.stream, None
        if stream is not None:
            stream.lanes.discard(lane)
            self.retire(stream)

    def retire(self, stream: Stream) -> None:
        """Ends a stream if nobody needs it any more."""
        is_newest = self._newest.get(stream.shard) is stream
        # Of many shards each begins anew where a balancer has it by then. A lone stream stays: to open it again would
        # cost a session as much as its own opening.
        if stream.is_needed or (is_newest and self._connection.shards.count == 1):
            return
        if is_newest:
            del self._newest[stream.shard]
        stream.stop()

    def gone(self, stream: Stream) -> None:
        """Forgets a stream that has ended."""
        self._open.discard(stream)

    async def close(self) -> None:
        """Ends all streams; chunks without an answer fail with Unavailable."""
        self._is_closed = True
        await asyncio.gather(*(stream.close() for stream in self._open))

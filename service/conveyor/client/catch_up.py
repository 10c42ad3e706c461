"""Calls of one session that begin where the client has it, on whichever server that is by now."""

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, TypeVar

from conveyor.client.connection import Connection
from conveyor.client.errors import ClientError, ReplayLost, WrongPosition
from conveyor.client.lane import Lane
from conveyor.client.opening import resumed
from conveyor.v1 import session_pb2, step_pb2

Response = TypeVar("Response")


async def catch_up(connection: Connection, lane: Lane, position: int, deadline: float) -> None:
    """Leads a session that came back at `position` to where its client is. Nothing of it may be in flight.

    These are single steps and not the stream's: they go where the session's other calls go.

    Raises:
        ReplayLost: not all inputs that it takes are kept.
        WrongPosition: it came back anew meanwhile.
        ClientError: a step failed.
    """
    if lane.replay is None:
        raise ReplayLost(lane.session_id, position, lane.position)
    for chunk, num_steps in lane.replay.after(position):
        chunk.acknowledged_position, chunk.epoch = lane.position, lane.epoch
        request = step_pb2.StepRequest(chunk=chunk)
        response = await connection.call(connection.stub.Step, request, deadline - monotonic(), lane.shard)
        lane.sees(response.result.epoch)
        lane.replayed_steps += num_steps


async def resume(connection: Connection, lane: Lane, seconds: float | None = None) -> session_pb2.Session:
    """Has a server take the session up where its client can go on.

    Raises:
        NotFound: it is unknown, expired or closed.
        FailedPrecondition: all that is stored of it is ahead of the client.
    """
    request = session_pb2.ResumeSessionRequest(
        session_id=lane.session_id, received_position=lane.position, epoch=lane.epoch
    )
    return await resumed(connection, request, lane.shard, seconds)


def position_behind(error: ClientError, lane: Lane) -> int | None:
    """Where the session is, if the error says that it came back behind its client."""
    if not isinstance(error, WrongPosition) or isinstance(error, ReplayLost) or error.position is None:
        return None
    return error.position if error.position < lane.position else None


async def call_at_position(
    connection: Connection, lane: Lane, method: Callable[..., Awaitable[Response]], request: Any
) -> Response:
    """Makes a call whose request has a `position`: the lane's, or any if the client does not know.

    Raises:
        WrongPosition: somebody else has moved the session.
        ReplayLost: it came back behind the client, and the inputs since then are not all kept.
        ClientError: anything else.
    """
    deadline = monotonic() + connection.seconds(None)
    behind: int | None = None
    while True:
        if not lane.is_loose:
            request.position = lane.position
        try:
            if behind is not None:
                await catch_up(connection, lane, behind, deadline)
            return await connection.call(method, request, deadline - monotonic(), lane.shard)
        except WrongPosition as error:
            behind = position_behind(error, lane)
            if behind is None or monotonic() >= deadline:
                raise

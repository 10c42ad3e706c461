"""Calls of one session that begin where the client has it, on whichever server that is by now."""

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, TypeVar

from conveyor.client.connection import Connection
from conveyor.client.errors import ClientError, NotFound, ReplayLost, WrongPosition
from conveyor.client.lane import Lane
from conveyor.client.opening import FEW_DETOURS, resumed
from conveyor.client.shards import NUM_DETOURS
from conveyor.v1 import session_pb2, step_pb2

Response = TypeVar("Response")


async def catch_up(connection: Connection, lane: Lane, position: int, deadline: float) -> None:
    """Leads a session that came back at `position` to where its client is. Nothing of it may be in flight.

    These are single steps and not the stream's: they go where the session's other calls go.

    Raises:
        ReplayLost: not all inputs that it takes are kept.
        WrongPosition: somebody else has moved the session.
        ClientError: a step failed.
    """
    if lane.replay is None:
        raise ReplayLost(lane.session_id, position, lane.position)
    while position < lane.position:
        chunk, num_steps = next(lane.replay.after(position))
        chunk.acknowledged_position, chunk.epoch = lane.position, lane.epoch
        request = step_pb2.StepRequest(chunk=chunk)
        try:
            response = await connection.call(connection.stub.Step, request, deadline - monotonic(), lane.shard)
        except WrongPosition as error:
            if error.position is None or error.position > lane.position or monotonic() >= deadline:
                raise
            position = error.position  # it was taken and its answer lost, or the session moved once more
            continue
        lane.sees(response.result.epoch)
        lane.replayed_steps += num_steps
        position += num_steps


async def resume(
    connection: Connection, lane: Lane, seconds: float | None = None, *, is_repeated: bool = False
) -> session_pb2.Session:
    """Has a server take the session up where its client can go on.

    While it is in doubt whether a session that is not stored lives, one that `is_repeated` looks for it in few places.

    Raises:
        NotFound: it is unknown, expired or closed.
        FailedPrecondition: all that is stored of it is ahead of the client.
    """
    request = session_pb2.ResumeSessionRequest(
        session_id=lane.session_id, received_position=lane.position, epoch=lane.epoch
    )
    is_brief = is_repeated and lane.fate.is_in_doubt(monotonic())
    num_detours = FEW_DETOURS if is_brief else NUM_DETOURS
    try:
        session, lane.shard = await resumed(connection, request, lane.shard, seconds, num_detours)
    except NotFound as error:
        error.is_certain = not is_brief
        raise
    lane.fate.live()
    return session


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
        except NotFound as error:
            if lane.epoch or not lane.fate.is_first_doubt(error):
                raise
            await resume(connection, lane)
        except WrongPosition as error:
            behind = position_behind(error, lane)
            if behind is None or monotonic() >= deadline:
                raise

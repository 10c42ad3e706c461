"""One `StepStateless`: a session that lives for as long as the call."""

from conveyor.engine.durability import NOT_STORED
from conveyor.engine.engines import Engines
from conveyor.engine.work import OpenOptions, SessionView
from conveyor.errors import InvalidArgument
from conveyor.rpc import step
from conveyor.rpc.sessions import read_contexts
from conveyor.rpc.status import Context
from conveyor.v1 import step_pb2


async def run(
    request: step_pb2.StepStatelessRequest, engines: Engines, context: Context
) -> step_pb2.StepStatelessResponse:
    """Opens where the client's checkpoint is, steps, and gives the new checkpoint.

    Raises:
        ConveyorError: the checkpoint cannot be used, or the chunk was refused or failed.
    """
    view = await _open(request, engines)
    response = step_pb2.StepStatelessResponse()
    try:
        request.chunk.session_id = view.session_id
        await step.run(request.chunk, engines.of_session(view.session_id), context, response.result)
        response.checkpoint, _ = await engines.export(view.session_id, None)
    finally:
        if engines.is_here(view.session_id):
            await engines.close(view.session_id)
    response.result.session_id = ""
    return response


async def _open(request: step_pb2.StepStatelessRequest, engines: Engines) -> SessionView:
    start = request.WhichOneof("start")
    if start == "checkpoint":
        return await engines.import_(request.checkpoint, OpenOptions(durability=NOT_STORED))
    if start != "open":
        raise InvalidArgument("start", "one of checkpoint and open must be given")
    opening = request.open
    options = OpenOptions(seed=opening.seed if opening.HasField("seed") else None, durability=NOT_STORED)
    model, contexts = (opening.model_name, opening.model_version), read_contexts(opening)
    return await engines.open(*model, options, contexts, opening.model_alias)

"""Messages to the engine's work, and its answers to messages. Checks the form of a message, never its sense."""

from functools import lru_cache
from math import inf
from typing import Any, NoReturn

import numpy as np

from conveyor.engine.engine import Engine
from conveyor.engine.work import (
    Answer,
    Array,
    Chunk,
    EndReason,
    FinishReason,
    Generation,
    Sampling,
    Sink,
    Token,
    Want,
)
from conveyor.errors import InvalidArgument
from conveyor.rpc.tensors import DATA_TYPES, read_tensor, write_tensor
from conveyor.signature import ContextSpec, OutputSpec, TensorSpec
from conveyor.v1 import generate_pb2, model_pb2, session_pb2, step_pb2

MAX_CACHED_WANT = 256  # bytes; what a client makes longer is not kept for it

NOTHING = Want()
SCORING = Want(scoring=True)
REMEMBERED = Want(scoring=True, remember=True)

END_REASONS = {reason: session_pb2.EndReason.Value(f"END_REASON_{reason.name}") for reason in EndReason}
FINISH_REASONS: dict[FinishReason, Any] = {
    reason: generate_pb2.FinishReason.Value(f"FINISH_REASON_{reason.name}") for reason in FinishReason
}

# A chunk of one small token id needs no array of its own: these are shared and read-only.
_SINGLES = list(np.arange(1024, dtype=np.int64).reshape(-1, 1))
for _single in _SINGLES:
    _single.flags.writeable = False


def chunk_work(message: step_pb2.Chunk, engine: Engine, sink: Sink, tag: Any, deadline: float = inf) -> Chunk:
    """The work that a chunk asks for.

    Raises:
        InvalidArgument: both or neither of `tokens` and `inputs`, tokens for a model of tensors, a malformed tensor.
    """
    tokens = message.tokens
    if tokens:
        inputs, num_steps = {engine.token_input or _no_tokens(engine): token_array(tokens)}, 0
        if message.inputs:
            raise InvalidArgument("inputs", "exclusive with tokens")
    elif engine.signature.inputs or message.inputs:
        inputs, num_steps = _tensor_inputs(message), 0
    else:
        inputs, num_steps = {}, message.num_steps
    position = message.position if message.HasField("position") else None
    acknowledged = message.acknowledged_position if message.HasField("acknowledged_position") else None
    want = want_of(message)
    return Chunk(
        message.session_id, inputs, want, sink, tag, position, deadline, acknowledged, num_steps, message.epoch
    )


def _no_tokens(engine: Engine) -> NoReturn:
    inputs = engine.signature.inputs
    given = f"inputs: {', '.join(spec.name for spec in inputs)}" if inputs else "num_steps"
    raise InvalidArgument("tokens", f"model {engine.name} takes no tokens; give {given}")


def token_array(tokens: Any) -> Array:
    """Token ids as int64 `[n]`. The array may be shared: never write to it."""
    length = len(tokens)
    if length == 1:
        token = tokens[0]
        return _SINGLES[token] if 0 <= token < len(_SINGLES) else np.array((token,), np.int64)
    # Repeated fields convert to arrays in bulk, but at a fixed cost that a short list does not pay.
    return np.array(tokens if length > 32 else list(tokens), np.int64)


def _tensor_inputs(message: step_pb2.Chunk) -> dict[str, Array]:
    if not message.inputs:
        raise InvalidArgument("tokens", "a chunk needs at least one step, as tokens or as inputs")
    inputs = {}
    for name, tensor in message.inputs.items():
        inputs[name] = read_tensor(tensor, f"inputs[{name}]")
        if not tensor.shape:
            raise InvalidArgument(f"inputs[{name}].shape", "a scalar; expected the axis of steps first")
    return inputs


def want_of(message: step_pb2.Chunk) -> Want:
    """What the chunk is to be answered with."""
    kind = message.WhichOneof("want")
    if kind is None:
        return NOTHING
    if kind == "scoring":
        return REMEMBERED if message.scoring.remember else SCORING
    serialized = message.outputs.SerializeToString()
    return _cached_want(serialized) if len(serialized) <= MAX_CACHED_WANT else _outputs_want(serialized)


def _outputs_want(serialized: bytes) -> Want:
    outputs = step_pb2.Outputs.FromString(serialized)
    return Want(names=tuple(outputs.names), top_k=outputs.top_k, last_only=outputs.last_only)


# Keyed by its bytes: serialising is cheaper than reading three fields, and clients ask for the same few.
_cached_want = lru_cache(1024)(_outputs_want)


def fill_result(result: step_pb2.StepResult, answer: Answer, top_k: int) -> int:
    """Writes the answer's outputs, and says about how many bytes they are; the caller has written the identifiers."""
    result.position = answer.position
    num_bytes = 0
    if answer.epoch:
        result.epoch = answer.epoch
        if answer.durable_position is not None:
            result.durable_position = answer.durable_position
    if answer.top_tokens:
        top = result.top_tokens
        top.k = top_k
        top.tokens.extend(answer.top_tokens)
        top.log_probabilities.extend(answer.top_log_probabilities)
        num_bytes = 12 * len(answer.top_tokens)
    if answer.log_probabilities:
        result.log_probabilities.extend(answer.log_probabilities)
        num_bytes += 4 * len(answer.log_probabilities)
    if answer.outputs:
        for name, array in answer.outputs.items():
            write_tensor(result.outputs[name], array)
            num_bytes += array.nbytes
    return num_bytes


def generation_work(request: generate_pb2.GenerateRequest, sink: Sink, deadline: float) -> Generation:
    """The work that a generation asks for."""
    return Generation(
        session_id=request.session_id,
        tokens=list(request.tokens),
        max_tokens=request.max_tokens,
        sink=sink,
        sampling=_sampling(request.sampling),
        stop_sequences=tuple(tuple(sequence.tokens) for sequence in request.stop_sequences),
        seed=request.seed if request.HasField("seed") else None,
        top_k=request.top_k_log_probabilities,
        position=request.position if request.HasField("position") else None,
        deadline=deadline,
        num_generated=request.num_generated,
        epoch=request.epoch,
    )


def _sampling(message: generate_pb2.Sampling) -> Sampling:
    temperature = message.temperature if message.HasField("temperature") else 1.0
    top_p = message.top_p if message.HasField("top_p") else 1.0
    penalty = message.repetition_penalty if message.HasField("repetition_penalty") else 1.0
    return Sampling(temperature, message.top_k, top_p, penalty, message.repetition_window or 64)


def generate_response(tokens: list[Token], top_k: int) -> generate_pb2.GenerateResponse:
    """One message of the tokens that came together."""
    last = tokens[-1]
    response = generate_pb2.GenerateResponse(
        tokens=[token.token for token in tokens],
        log_probabilities=[token.log_probability for token in tokens],
        position=last.position,
    )
    if last.epoch:
        response.epoch = last.epoch
        if last.durable_position is not None:
            response.durable_position = last.durable_position
    if last.finish_reason is not None:
        response.finish_reason = FINISH_REASONS[last.finish_reason]
    if top_k:
        for token in tokens:
            response.alternatives.add(tokens=token.top_tokens, log_probabilities=token.top_log_probabilities)
    return response


def model_message(engine: Engine, with_vocabulary: bool) -> model_pb2.Model:
    """The model as clients see it."""
    signature = engine.signature
    vocabulary = engine.vocabulary.symbols if with_vocabulary and engine.vocabulary else ()
    return model_pb2.Model(
        name=engine.name,
        version=engine.version,
        fingerprint=engine.fingerprint,
        signature=model_pb2.Signature(
            inputs=map(_spec, signature.inputs),
            states=map(_spec, signature.states),
            outputs=map(_spec, signature.outputs),
            contexts=map(_spec, signature.given_contexts),
            noises=map(_spec, signature.noises),
            logits=signature.logits.name if signature.logits else "",
        ),
        vocabulary=vocabulary,
        state_bytes=engine.state_bytes,
        context_bytes=signature.context_bytes,
    )


def _spec(spec: TensorSpec) -> model_pb2.TensorSpec:
    is_optional = isinstance(spec, OutputSpec) and spec.is_optional
    is_optional |= isinstance(spec, ContextSpec) and spec.default is not None
    return model_pb2.TensorSpec(
        name=spec.name, data_type=DATA_TYPES[spec.dtype], shape=spec.shape, optional=is_optional
    )

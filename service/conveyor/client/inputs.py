"""What callers may give a step, made into a chunk."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import index
from typing import Any, TypeAlias

from conveyor.client.errors import InvalidArgument
from conveyor.client.message import message_from
from conveyor.client.results import Model
from conveyor.client.tensor import Tensor
from conveyor.v1 import step_pb2, tensor_pb2

Tokens: TypeAlias = str | int | Sequence[int]
# Text or tokens for a language model; the number of steps for a model that takes no inputs; else arrays
# `[steps, ...]` (numpy's, Tensors or nested lists), by input name.
Inputs: TypeAlias = Any


def tokens_from(data: Tokens, model: Model) -> list[int]:
    """Token ids of text, of one id, or of a sequence of ids.

    Raises:
        InvalidArgument: text for a model without a vocabulary, or neither text nor ids.
    """
    if isinstance(data, str):
        if model.vocabulary is None:
            raise InvalidArgument(f"tokens: model {model.name} has no vocabulary to read text with", field="tokens")
        return model.vocabulary.encode(data)
    if isinstance(data, int):
        return [data]
    try:
        tokens = data.tolist() if hasattr(data, "tolist") else list(data)
    except TypeError as error:
        raise InvalidArgument(f"tokens: {error}", field="tokens") from None
    return tokens if isinstance(tokens, list) else [tokens]  # a NumPy scalar's list is a number


def chunk_from(session_id: str, data: Inputs, model: Model) -> tuple[step_pb2.Chunk, int, tuple[int, ...]]:
    """A chunk without position or wants, its number of steps, and its tokens if it has any.

    Raises:
        InvalidArgument: no steps, or inputs that the model does not have.
    """
    # A list first, the common case: to ask whether something is a Mapping takes a while.
    if model.takes_tokens and (type(data) is list or not isinstance(data, Mapping)):
        tokens = data if type(data) is list else tokens_from(data, model)
        if not tokens:
            raise _no_steps("tokens")
        try:
            return step_pb2.Chunk(session_id=session_id, tokens=tokens), len(tokens), tuple(tokens)
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"tokens: {error}", field="tokens") from None
    if not model.inputs:
        return _steps_from(session_id, data)
    tensors = _tensors(data, model)
    num_steps = next((tensor.shape[0] for tensor in tensors.values() if tensor.shape), 0)
    if not num_steps:
        raise _no_steps("inputs")
    inputs = {name: tensor.to_message() for name, tensor in tensors.items()}
    return step_pb2.Chunk(session_id=session_id, inputs=inputs), num_steps, ()


def _steps_from(session_id: str, data: Inputs) -> tuple[step_pb2.Chunk, int, tuple[int, ...]]:
    try:
        num_steps = index(data)
    except TypeError:
        problem = "num_steps: the model takes no inputs; give the number of steps"
        raise InvalidArgument(problem, field="num_steps") from None
    if num_steps < 1:
        raise _no_steps("num_steps")
    return message_from(step_pb2.Chunk, session_id=session_id, num_steps=num_steps), num_steps, ()


def _no_steps(field: str) -> InvalidArgument:
    # The server would say so too, but take the chunk behind it: that would begin at the same position.
    return InvalidArgument(f"{field}: a chunk needs at least one step", field=field)


def _tensors(data: Inputs, model: Model) -> dict[str, Tensor]:
    if not isinstance(data, Mapping):
        if len(model.inputs) != 1:
            names = ", ".join(info.name for info in model.inputs)
            raise InvalidArgument(f"inputs: give a dict of {names}", field="inputs")
        data = {model.inputs[0].name: data}
    dtypes = {info.name: info.dtype for info in model.inputs}
    return {name: tensor_from(value, dtypes.get(name, "float32")) for name, value in data.items()}


def contexts_from(contexts: Mapping[str, Any] | None) -> dict[str, tensor_pb2.Tensor]:
    """The wire's form of contexts by name."""
    return {name: tensor_from(value, "float32").to_message() for name, value in (contexts or {}).items()}


def tensor_from(value: Any, dtype: str) -> Tensor:
    """A Tensor of a Tensor, an array, or nested lists; only lists take `dtype`."""
    if isinstance(value, Tensor):
        return value
    if hasattr(value, "dtype") and hasattr(value, "tobytes"):
        return Tensor.from_array(value)
    return Tensor.from_list(value, dtype)


@lru_cache(maxsize=256)
def outputs_from(names: tuple[str, ...], top_k: int, last_only: bool) -> step_pb2.Outputs | None:
    """What a step asks for; None for nothing. Shared between chunks: messages copy it."""
    if not names and not top_k:
        return None
    return message_from(step_pb2.Outputs, "outputs.", names=names, top_k=top_k, last_only=last_only)

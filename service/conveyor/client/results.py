"""What the client gives back. Messages are kept as they came and read when asked: most callers look at one field."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from conveyor.client.durability import Durability, durability_from
from conveyor.client.tensor import DTYPE_NAMES, Tensor
from conveyor.signature.vocabulary import Vocabulary
from conveyor.v1 import generate_pb2, model_pb2, session_pb2, step_pb2

_FINISH_REASONS = {generate_pb2.FINISH_REASON_LENGTH: "length", generate_pb2.FINISH_REASON_STOP: "stop"}

_RESIDENCES = {
    session_pb2.RESIDENCE_RESIDENT: "resident",
    session_pb2.RESIDENCE_SPILLED: "spilled",
    session_pb2.RESIDENCE_STORED: "stored",
}


class TopToken(NamedTuple):
    """One of the highest-scoring tokens. `text` is empty if the model has no vocabulary."""

    token: int
    text: str
    log_probability: float


class StepResult:
    """The answer to one step call of n steps."""

    __slots__ = ("_message", "_vocabulary")

    def __init__(self, message: step_pb2.StepResult, vocabulary: Vocabulary | None) -> None:
        self._message = message
        self._vocabulary = vocabulary

    @property
    def position(self) -> int:
        """Number of steps that the session has consumed, these included."""
        return self._message.position

    @property
    def outputs(self) -> dict[str, Tensor]:
        """The outputs asked for: `[n, ...]` each, `[1, ...]` with `last_only`."""
        return {name: Tensor.from_message(tensor) for name, tensor in self._message.outputs.items()}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._message.outputs:  # reading a missing key would create it
            raise KeyError(name)
        return Tensor.from_message(self._message.outputs[name])

    @property
    def top_tokens(self) -> list[list[TopToken]]:
        """The highest-scoring tokens of each step, best first."""
        top = self._message.top_tokens
        if not top.k:
            return []
        flat = top_tokens(top.tokens, top.log_probabilities, self._vocabulary)
        return [flat[start : start + top.k] for start in range(0, len(flat), top.k)]

    def __repr__(self) -> str:
        return f"StepResult(position={self.position}, outputs={sorted(self._message.outputs)})"


@dataclass(frozen=True, slots=True)
class GeneratedToken:
    """One generated token. `finish_reason` is None, or on the last one `length` or `stop`.

    `text` is empty if the model has no vocabulary; `alternatives` holds the tokens asked for by `log_probabilities`.
    """

    token: int
    text: str
    log_probability: float
    position: int
    alternatives: tuple[TopToken, ...] = ()
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of a model's signature: per session, without batch and time axes.

    An output that `is_optional` is computed only in runs in which somebody asks for it; a context may be left out.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded version of a model. `vocabulary` is None if it has none, or if the model came from a list."""

    name: str
    version: int
    fingerprint: str
    inputs: tuple[TensorInfo, ...]
    states: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    contexts: tuple[TensorInfo, ...]
    noises: tuple[TensorInfo, ...]
    logits: str | None
    vocabulary: Vocabulary | None
    state_bytes: int
    context_bytes: int

    @property
    def takes_tokens(self) -> bool:
        """True if its only stream input is one integer per step."""
        return len(self.inputs) == 1 and self.inputs[0].dtype == "int64" and self.inputs[0].shape == ()


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as the server tells of it.

    `residence` is `resident`, `spilled`, or `stored` if only the store has it. `durable_position` is that of its newest
    checkpoint there, None while there is none; `epoch` counts the servers that have owned it, 0 if it is not stored.
    """

    session_id: str
    model_name: str
    model_version: int
    position: int
    seed: int
    create_time: datetime
    expire_time: datetime
    residence: str
    state_bytes: int
    durability: Durability
    durable_position: int | None
    epoch: int


def top_tokens(
    tokens: Sequence[int], log_probabilities: Sequence[float], vocabulary: Vocabulary | None
) -> list[TopToken]:
    """Pairs tokens with their text and log-probability."""
    return [
        TopToken(token, token_text(token, vocabulary), log_probability)
        for token, log_probability in zip(tokens, log_probabilities, strict=True)
    ]


def token_text(token: int, vocabulary: Vocabulary | None) -> str:
    """Text of a token; empty without a vocabulary."""
    return vocabulary.symbols[token] if vocabulary else ""


def generated_tokens(message: generate_pb2.GenerateResponse, vocabulary: Vocabulary | None) -> list[GeneratedToken]:
    """The tokens of one message; the last may carry the finish reason."""
    first = message.position - len(message.tokens) + 1
    last = len(message.tokens) - 1
    finish_reason = _FINISH_REASONS.get(message.finish_reason)
    return [
        GeneratedToken(
            token=token,
            text=token_text(token, vocabulary),
            log_probability=message.log_probabilities[i],
            position=first + i,
            alternatives=_alternatives(message, i, vocabulary),
            finish_reason=finish_reason if i == last else None,
        )
        for i, token in enumerate(message.tokens)
    ]


def _alternatives(
    message: generate_pb2.GenerateResponse, index: int, vocabulary: Vocabulary | None
) -> tuple[TopToken, ...]:
    if not message.alternatives:
        return ()
    top = message.alternatives[index]
    return tuple(top_tokens(top.tokens, top.log_probabilities, vocabulary))


def model_from(message: model_pb2.Model) -> Model:
    """Reads the wire's form of a model."""
    signature = message.signature
    return Model(
        name=message.name,
        version=message.version,
        fingerprint=message.fingerprint,
        inputs=_tensors(signature.inputs),
        states=_tensors(signature.states),
        outputs=_tensors(signature.outputs),
        contexts=_tensors(signature.contexts),
        noises=_tensors(signature.noises),
        logits=signature.logits or None,
        vocabulary=Vocabulary(message.vocabulary) if message.vocabulary else None,
        state_bytes=message.state_bytes,
        context_bytes=message.context_bytes,
    )


def _tensors(specs: Sequence[model_pb2.TensorSpec]) -> tuple[TensorInfo, ...]:
    return tuple(TensorInfo(spec.name, DTYPE_NAMES[spec.data_type], tuple(spec.shape), spec.optional) for spec in specs)


def session_from(message: session_pb2.Session) -> SessionInfo:
    """Reads the wire's form of a session."""
    return SessionInfo(
        session_id=message.session_id,
        model_name=message.model_name,
        model_version=message.model_version,
        position=message.position,
        seed=message.seed,
        create_time=message.create_time.ToDatetime(tzinfo=UTC),
        expire_time=message.expire_time.ToDatetime(tzinfo=UTC),
        residence=_RESIDENCES.get(message.residence, "spilled"),
        state_bytes=message.state_bytes,
        durability=durability_from(message.durability),
        durable_position=message.durable_position if message.HasField("durable_position") else None,
        epoch=message.epoch,
    )

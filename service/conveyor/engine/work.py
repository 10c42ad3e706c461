"""What goes through the engine's door: work in, outcomes out. Plain values and arrays, no transport types."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from conveyor.engine.durability import NOT_STORED, Durability
from conveyor.errors import ConveyorError

Array = NDArray[Any]


class EndReason(Enum):
    """Why a session ended; the values label a metric."""

    CLOSED = "closed"
    IDLE = "idle"
    LIFETIME = "lifetime"
    DRAINED = "drained"
    UNLOADED = "unloaded"
    MOVED = "moved"


class FinishReason(Enum):
    """Why a generation ended; the values label a metric."""

    LENGTH = "length"
    STOP = "stop"


class Residency(Enum):
    """Where a session's state is."""

    RESIDENT = "resident"
    SPILLED = "spilled"
    STORED = "stored"


@dataclass(frozen=True, slots=True)
class Want:
    """What a chunk is answered with; see `Outputs` and `Scoring` in step.proto."""

    names: tuple[str, ...] = ()
    top_k: int = 0
    last_only: bool = False
    scoring: bool = False
    remember: bool = False


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is drawn; see `Sampling` in generate.proto. `top_k` 0 means all."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    repetition_window: int = 64


@dataclass(slots=True)
class Answer:
    """What a chunk of `num_steps` steps gave; `position` is the session's after it.

    `outputs` are `[n, ...]`; `top_tokens` and `top_log_probabilities` are flat, `top_k` for each of the n steps.
    `run_seconds` is what the runs took together that its steps were in.
    `durable_position` is where the client would have to send again from, None if the session is not stored.
    """

    session_id: str
    position: int
    num_steps: int
    outputs: dict[str, Array] = field(default_factory=dict)
    top_tokens: list[int] = field(default_factory=list)
    top_log_probabilities: list[float] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    run_seconds: float = 0.0
    durable_position: int | None = None
    epoch: int = 0

    @property
    def num_bytes(self) -> int:
        """About what it takes in memory."""
        num_values = 2 * len(self.top_tokens) + len(self.log_probabilities)
        return 16 * num_values + sum(array.nbytes for array in self.outputs.values())


@dataclass(slots=True)
class Token:
    """One generated token; `position` is the session's with it. `finish_reason` is set on the last."""

    session_id: str
    position: int
    token: int
    log_probability: float
    top_tokens: list[int] = field(default_factory=list)
    top_log_probabilities: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    durable_position: int | None = None
    epoch: int = 0


class Sink(Protocol):
    """Where a caller's outcomes go. All methods are called on the engine's event loop and must not block.

    `stays` tells a stream, which outlives its work and wants to hear when sessions end, from a single call.
    """

    stays: bool

    def put(self, tag: Any, outcome: Answer | Token | ConveyorError) -> None:
        """Takes one outcome of the work that was submitted with this tag."""

    def flush(self) -> None:
        """Called once after each batch that put anything here: send what has come together."""

    def end(self, session_id: str, reason: EndReason, position: int) -> None:
        """Takes the news that a session last stepped from here has ended; a `flush` follows."""


@dataclass(slots=True, eq=False)
class Chunk:
    """Consecutive steps of one session. `inputs` are `[n, ...]` in the signature's dtypes, one for each stream input.

    A model without stream inputs is asked for `num_steps`, which has no meaning for others.
    `position` None means wherever the session is. The client has received the answers up to `acknowledged`; None means
    up to `position`. `deadline` is on the engine's clock (`time.monotonic`).
    """

    session_id: str
    inputs: dict[str, Array]
    want: Want
    sink: Sink
    tag: Any = None
    position: int | None = None
    deadline: float = inf
    acknowledged: int | None = None
    num_steps: int = 0
    epoch: int = 0


@dataclass(slots=True, eq=False)
class Generation:
    """A prompt to consume and tokens to sample. `seed` None means the session's own.

    Of the session's tokens, the prompt included, the last `num_generated` were drawn by an earlier call: stop sequences
    may begin among them.
    """

    session_id: str
    tokens: list[int]
    max_tokens: int
    sink: Sink
    sampling: Sampling = Sampling()
    stop_sequences: tuple[tuple[int, ...], ...] = ()
    seed: int | None = None
    top_k: int = 0
    tag: Any = None
    position: int | None = None
    deadline: float = inf
    num_generated: int = 0
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session as it is told to the outside. Times are Unix seconds."""

    session_id: str
    model_name: str
    model_version: int
    position: int
    seed: int
    create_time: float
    expire_time: float
    residence: Residency
    state_bytes: int
    durability: Durability = NOT_STORED
    durable_position: int | None = None
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """How to open a session. None takes the server's default; times are seconds."""

    session_id: str | None = None
    seed: int | None = None
    idle_timeout: float | None = None
    max_lifetime: float | None = None
    durability: Durability | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """Where a session begins: at what its contexts make of it, or where another session or process left off.

    Rows are by arena; None where all sessions start alike. `age` is seconds since it was first opened.
    """

    contexts: dict[str, Array] | None = None
    initial: dict[str, Array] | None = None
    position: int = 0
    pending: int | None = None
    seen: Sequence[int] | None = None
    age: float = 0.0


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """One run, for the metrics. Seconds; `queue_seconds` has an entry for each chunk that started in this run."""

    num_sessions: int
    num_steps: int
    num_generated: int
    run_seconds: float
    queue_seconds: np.ndarray


class Observer(Protocol):
    """Hears what the engine does; telemetry implements it. Called at most once a batch or session event."""

    def session_opened(self) -> None: ...
    def session_ended(self, reason: EndReason) -> None: ...
    def batch_ran(self, record: BatchRecord) -> None: ...
    def run_failed(self) -> None: ...
    def states_spilled(self, num_sessions: int) -> None: ...
    def states_restored(self, num_sessions: int) -> None: ...
    def work_refused(self, reason: str) -> None: ...
    def prefix_sought(self, num_tokens: int) -> None: ...
    def checkpoints_stored(self, num_checkpoints: int, num_bytes: int) -> None: ...
    def checkpoints_failed(self, num_checkpoints: int) -> None: ...
    def session_fenced(self) -> None: ...
    def session_resumed(self) -> None: ...

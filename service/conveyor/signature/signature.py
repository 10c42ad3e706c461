"""One description for every recurrent model: its tensors, and the role of each and of each of its axes."""

import json
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

FORMAT = 1

DISTRIBUTIONS = ("normal", "uniform")

ITEM_SIZES = {"bool": 1, "int32": 4, "int64": 8, "float16": 2, "float32": 4, "float64": 8}

_TEXTS, _FLAGS = ("name", "output", "initialiser", "distribution"), ("is_logits", "is_optional")


@dataclass(frozen=True, slots=True)
class Axis:
    """Where the batch and time axes lie in a tensor of the graph; None where there is none."""

    batch: int | None = None
    time: int | None = None


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor of the graph. `shape` is per session and step: without its batch and time axes.

    A stream input `tokens` of `[T, B]` has shape `()`, batch 1, time 0.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    axis: Axis = Axis()

    def __post_init__(self) -> None:
        if self.dtype not in ITEM_SIZES:
            raise ValueError(f"{self.name}: dtype {self.dtype!r} is not one of {', '.join(ITEM_SIZES)}")
        if any(length < 1 for length in self.shape):
            raise ValueError(f"{self.name}: shape {self.shape} has a length below 1")
        axes = [axis for axis in (self.axis.batch, self.axis.time) if axis is not None]
        if len(axes) != len(set(axes)) or any(axis not in range(self.rank) for axis in axes):
            raise ValueError(f"{self.name}: {self.axis} does not fit a tensor of {self.rank} axes")

    @property
    def rank(self) -> int:
        """Number of axes of the graph's tensor, batch and time included."""
        return len(self.shape) + (self.axis.batch is not None) + (self.axis.time is not None)

    @property
    def num_bytes(self) -> int:
        """Bytes of one session's share."""
        return prod(self.shape) * ITEM_SIZES[self.dtype]


@dataclass(frozen=True, slots=True)
class StateSpec(TensorSpec):
    """A state input and the output that replaces it. A `[layers, B, H]` state has shape `(layers, H)`, batch 1.

    `initial` is the flattened initial value; None means zeros. `initialiser` names the output of the graph that gives
    it instead, from the contexts alone: `[B, ...]` where the state has a batch axis.
    """

    output: str = ""
    initial: tuple[float, ...] | None = None
    initialiser: str = ""

    def __post_init__(self) -> None:
        TensorSpec.__post_init__(self)
        if not self.output:
            raise ValueError(f"{self.name}: a state needs the name of the output that replaces it")
        if self.axis.time is not None:
            raise ValueError(f"{self.name}: a state has no time axis")
        if self.initial is not None and len(self.initial) != prod(self.shape):
            raise ValueError(f"{self.name}: initial has {len(self.initial)} values, shape {self.shape} needs others")
        if self.initial is not None and self.initialiser:
            raise ValueError(f"{self.name}: has both an initial value and an initialiser")


@dataclass(frozen=True, slots=True)
class ContextSpec(TensorSpec):
    """What a session is given once, when it opens: an input that nothing replaces, the same at every step.

    `initialiser` names the output of the graph that computes it from the other contexts; clients do not send it then.
    `default` is the flattened value of a session whose client sends none; None means that it has to be sent.
    """

    initialiser: str = ""
    default: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        TensorSpec.__post_init__(self)
        if self.axis.time is not None:
            raise ValueError(f"{self.name}: a context has no time axis")
        if self.default is not None and len(self.default) != prod(self.shape):
            raise ValueError(f"{self.name}: default has {len(self.default)} values, shape {self.shape} needs others")
        if self.default is not None and self.initialiser:
            raise ValueError(f"{self.name}: has both a default and an initialiser")

    @property
    def is_constant(self) -> bool:
        """True of what a whole run shares, such as a sample rate: sessions that differ in it never run together."""
        return self.default is not None and self.axis.batch is None


@dataclass(frozen=True, slots=True)
class NoiseSpec(TensorSpec):
    """Random numbers that the server draws for each step, from the session's seed and the step's place alone.

    `distribution` is `normal` (mean 0, variance 1) or `uniform` (0 to 1, 1 excluded); float32 both.
    """

    distribution: str = "normal"

    def __post_init__(self) -> None:
        TensorSpec.__post_init__(self)
        if self.dtype != "float32":
            raise ValueError(f"{self.name}: noise is float32, got {self.dtype}")
        if self.distribution not in DISTRIBUTIONS:
            raise ValueError(
                f"{self.name}: distribution {self.distribution!r} is not one of {', '.join(DISTRIBUTIONS)}"
            )


@dataclass(frozen=True, slots=True)
class OutputSpec(TensorSpec):
    """What a client may ask for. `is_logits` marks the one that scores the vocabulary: shape `(V,)`.

    One that `is_optional` is computed only in runs in which somebody asks for it.
    """

    is_logits: bool = False
    is_optional: bool = False

    def __post_init__(self) -> None:
        TensorSpec.__post_init__(self)
        if self.is_logits and (len(self.shape) != 1 or self.dtype not in ("float16", "float32")):
            raise ValueError(f"{self.name}: logits are float16 or float32 of one axis, got {self.dtype} {self.shape}")
        if self.is_logits and self.is_optional:
            raise ValueError(f"{self.name}: logits are never optional")


@dataclass(frozen=True, slots=True)
class Signature:
    """The tensors of a model by role. Names are unique over all roles.

    `max_token` bounds the integers that clients give, at each step and as contexts: ids run from 0 to it, both
    included. None leaves stream inputs unbounded, which a model of tokens may not, nor one with contexts of integers.
    `fixed_steps` is the only chunk length that the graph takes, None where the time axis is dynamic.
    """

    inputs: tuple[TensorSpec, ...]
    states: tuple[StateSpec, ...]
    outputs: tuple[OutputSpec, ...]
    contexts: tuple[ContextSpec, ...] = ()
    noises: tuple[NoiseSpec, ...] = ()
    max_token: int | None = None
    fixed_steps: int | None = None

    def __post_init__(self) -> None:
        names = [t.name for t in (*self.fed, *self.states, *self.outputs)]
        names += [s.output for s in self.states]
        names += [context.initialiser for context in self.contexts if context.initialiser]
        names += [state.initialiser for state in self.states if state.initialiser]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"named twice: {', '.join(twice)}")
        if not self.inputs and not self.noises:
            raise ValueError("inputs: a model needs at least one stream input, or noise")
        if self.initialisers and not self.given_contexts:
            raise ValueError("contexts: an initialiser needs one that the client gives")
        if sum(o.is_logits for o in self.outputs) > 1:
            raise ValueError("outputs: more than one is marked as logits")

    @property
    def fed(self) -> tuple[TensorSpec, ...]:
        """All inputs of the graph that are not states: stream inputs, noises, contexts."""
        return (*self.inputs, *self.noises, *self.contexts)

    @property
    def timed(self) -> tuple[TensorSpec, ...]:
        """What has a value for each step: stream inputs and noises."""
        return (*self.inputs, *self.noises)

    @property
    def given_contexts(self) -> tuple[ContextSpec, ...]:
        """The contexts that a client sends."""
        return tuple(context for context in self.contexts if not context.initialiser)

    @property
    def constants(self) -> tuple[ContextSpec, ...]:
        """The contexts that a whole run shares."""
        return tuple(context for context in self.contexts if context.is_constant)

    @property
    def unbatched(self) -> tuple[TensorSpec, ...]:
        """The tensors that keep sessions from running together."""
        specs = (*self.fed, *self.states, *self.outputs)
        return tuple(spec for spec in specs if spec.axis.batch is None and spec not in self.constants)

    @property
    def initialisers(self) -> dict[str, TensorSpec]:
        """The outputs of the graph that are computed once, at opening, and what each is the first value of."""
        contexts = {context.initialiser: context for context in self.contexts if context.initialiser}
        return contexts | {state.initialiser: state for state in self.states if state.initialiser}

    @property
    def logits(self) -> OutputSpec | None:
        """The output that scores the vocabulary."""
        return next((o for o in self.outputs if o.is_logits), None)

    @property
    def state_bytes(self) -> int:
        """Bytes of state per session."""
        return sum(state.num_bytes for state in self.states)

    @property
    def context_bytes(self) -> int:
        """Bytes of context per session, computed ones included."""
        return sum(context.num_bytes for context in self.contexts)

    @property
    def takes_tokens(self) -> bool:
        """True if the only stream input is one int64 per step."""
        return len(self.inputs) == 1 and self.inputs[0].dtype == "int64" and self.inputs[0].shape == ()

    def to_json(self) -> str:
        """The schema stored under `conveyor.signature` in an ONNX file, and in `signature.json`."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Signature":
        """Reads `to_json`'s schema.

        Raises:
            ValueError: not JSON, another format, or a malformed field; the message names it.
        """
        raw = json.loads(text)
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise ValueError(f"signature: expected format {FORMAT}")
        try:
            return cls(
                inputs=tuple(TensorSpec(**_tensor(t)) for t in raw["inputs"]),
                states=tuple(StateSpec(**_tensor(t)) for t in raw["states"]),
                outputs=tuple(OutputSpec(**_tensor(t)) for t in raw["outputs"]),
                contexts=tuple(ContextSpec(**_tensor(t)) for t in raw.get("contexts", ())),
                noises=tuple(NoiseSpec(**_tensor(t)) for t in raw.get("noises", ())),
                max_token=_count(raw.get("max_token"), least=0),
                fixed_steps=_count(raw.get("fixed_steps"), least=1),
            )
        except (AttributeError, KeyError, OverflowError, TypeError) as error:
            raise ValueError(f"signature: {error}") from error


def _tensor(raw: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(raw.get("shape", []), (list, tuple)):
        raise TypeError(f"{raw['name']}: shape {raw['shape']!r} is not a list of lengths")
    fields = {**raw, "shape": tuple(raw.get("shape", ())), "axis": Axis(**raw.get("axis", {}))}
    for key in _TEXTS:
        if not isinstance(raw.get(key, ""), str):
            raise TypeError(f"{raw['name']}: {key} {raw[key]!r} is not text")
    for key in _FLAGS:
        if not isinstance(raw.get(key, False), bool):
            raise TypeError(f"{raw['name']}: {key} {raw[key]!r} is neither true nor false")
    if None in fields["shape"]:
        raise TypeError(f"{raw['name']}: shape has null where a length is still to be said")
    if not all(isinstance(length, int) for length in fields["shape"]):
        raise TypeError(f"{raw['name']}: shape {raw['shape']!r} is not a list of lengths")
    for key in ("initial", "default"):
        if raw.get(key) is not None:
            fields[key] = tuple(_number(f"{raw['name']}: {key}", value) for value in raw[key])
    return fields


def _number(field: str, value: Any) -> float:
    if not isinstance(value, (int, float)):
        raise TypeError(f"{field} has {value!r} where a number should be")
    return float(value)


def _count(value: Any, least: int) -> int | None:
    if value is not None and (not isinstance(value, int) or value < least):
        raise TypeError(f"{value!r} is not a number from {least}")
    return value

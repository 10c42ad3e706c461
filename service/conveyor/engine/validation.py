"""Checks work against the model's signature before it is accepted. Pure."""

from collections.abc import Sequence
from math import inf

import numpy as np

from conveyor.engine.limits import Limits
from conveyor.engine.session import MAX_REMEMBERED
from conveyor.engine.work import Chunk, Generation, Want
from conveyor.errors import FailedPrecondition, InvalidArgument
from conveyor.signature import Signature, TensorSpec

MAX_ALTERNATIVES = 20
MAX_STOP_SEQUENCES = 64
MAX_STOP_TOKENS = 256
# Beyond these, float32 logits overflow or all become equal.
LEAST_PENALTY, MOST_PENALTY = 0.01, 100.0


class Validator:
    """The rules of one model."""

    def __init__(self, signature: Signature, limits: Limits) -> None:
        self._signature = signature
        self._limits = limits
        self._inputs = {spec.name: spec for spec in signature.inputs}
        self._outputs = {spec.name for spec in signature.outputs}
        self._token_input = signature.inputs[0].name if signature.takes_tokens else None
        self._vocabulary_size = signature.logits.shape[-1] if signature.logits else 0
        self._highest = -1 if signature.max_token is None else signature.max_token
        self._last_want: Want | None = None

    def chunk(self, chunk: Chunk) -> tuple[list[int] | None, int]:
        """The chunk's tokens, if it is of tokens, and its number of steps.

        Raises:
            InvalidArgument: an input or a wish that the model does not have, or of the wrong form.
            FailedPrecondition: scoring or top tokens of a model that has no vocabulary.
        """
        if chunk.want is not self._last_want:  # callers share their wants, so most chunks are spared the check
            self._check_want(chunk.want)
            self._last_want = chunk.want
        if self._token_input in chunk.inputs and len(chunk.inputs) == 1:
            tokens = self._tokens(chunk)
            return tokens, len(tokens)
        return None, self._arrays(chunk)

    def generation(self, generation: Generation, *, has_pending: bool) -> None:
        """Checks a generation; `has_pending` tells that the session has a token to start from.

        Raises:
            InvalidArgument: a field out of range.
            FailedPrecondition: the model does not take and score tokens.
        """
        if self._token_input is None or not self._vocabulary_size:
            raise FailedPrecondition("the model does not generate: it has no vocabulary of tokens")
        if not generation.tokens and not has_pending:
            raise InvalidArgument("tokens", "empty, and the session has no generated or scored token to go on from")
        self._check_length("tokens", len(generation.tokens))
        self._check_tokens("tokens", generation.tokens)
        self._check_stop_sequences(generation.stop_sequences)
        self._check_sampling(generation)

    def _tokens(self, chunk: Chunk) -> list[int]:
        array = chunk.inputs[self._token_input or ""]
        if array.dtype != np.int64 or array.ndim != 1:
            raise InvalidArgument(
                f"inputs[{self._token_input}]", f"expected int64 [steps], got {array.dtype} {list(array.shape)}"
            )
        self._check_length("tokens", len(array))
        tokens: list[int] = array.tolist()
        if not tokens:
            raise InvalidArgument("tokens", "a chunk needs at least one step")
        if len(tokens) > 1 or not 0 <= tokens[0] <= self._highest:
            self._check_tokens("tokens", tokens)
        return tokens

    def _check_tokens(self, field: str, tokens: Sequence[int]) -> None:
        highest = self._signature.max_token
        if not tokens or highest is None or (min(tokens) >= 0 and max(tokens) <= highest):
            return
        index, token = next((i, t) for i, t in enumerate(tokens) if not 0 <= t <= highest)
        raise InvalidArgument(f"{field}[{index}]", f"token {token} is outside 0 to {highest}")

    def _arrays(self, chunk: Chunk) -> int:
        if not self._inputs:
            return self._count(chunk)
        if chunk.inputs.keys() != self._inputs.keys():
            expected, got = ", ".join(sorted(self._inputs)), ", ".join(sorted(chunk.inputs)) or "nothing"
            raise InvalidArgument("inputs", f"the model takes {expected}; got {got}")
        lengths = {name: self._array_length(chunk, spec) for name, spec in self._inputs.items()}
        num_steps = next(iter(lengths.values()))
        for name, length in lengths.items():
            if length != num_steps:
                raise InvalidArgument(f"inputs[{name}]", f"has {length} steps, others {num_steps}")
        if num_steps == 0:
            raise InvalidArgument("inputs", "a chunk needs at least one step")
        self._check_length("inputs", num_steps)
        return num_steps

    def _count(self, chunk: Chunk) -> int:
        for name in chunk.inputs:
            raise InvalidArgument(f"inputs[{name}]", "the model takes no inputs; give num_steps")
        if chunk.num_steps < 1:
            raise InvalidArgument("num_steps", f"a model without inputs needs at least 1, got {chunk.num_steps}")
        self._check_length("num_steps", chunk.num_steps)
        return chunk.num_steps

    def _array_length(self, chunk: Chunk, spec: TensorSpec) -> int:
        array, field = chunk.inputs[spec.name], f"inputs[{spec.name}]"
        if array.dtype != np.dtype(spec.dtype):
            raise InvalidArgument(field, f"expected {spec.dtype}, got {array.dtype}")
        if array.shape[1:] != spec.shape or array.ndim != len(spec.shape) + 1:
            raise InvalidArgument(field, f"expected [steps, {str(list(spec.shape))[1:]}, got {list(array.shape)}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InvalidArgument(field, "has a NaN or an infinity")
        if array.dtype.kind == "i":
            self._check_tokens(field, array.ravel().tolist())
        return len(array)

    def _check_length(self, field: str, length: int) -> None:
        if length > self._limits.max_chunk_steps:
            raise InvalidArgument(
                field, f"{length} steps, more than the {self._limits.max_chunk_steps} allowed at once"
            )

    def _check_want(self, want: Want) -> None:
        for name in want.names:
            if name not in self._outputs:
                raise InvalidArgument(
                    "outputs.names", f"no output {name!r}; there is {', '.join(sorted(self._outputs))}"
                )
        if (want.top_k or want.scoring) and not self._vocabulary_size:
            raise FailedPrecondition("the model has no vocabulary to score")
        if want.scoring and self._token_input is None:
            raise FailedPrecondition("scoring needs a model whose only input is one token per step")
        if not 0 <= want.top_k <= self._vocabulary_size:
            raise InvalidArgument("outputs.top_k", f"expected 0 to {self._vocabulary_size}, got {want.top_k}")

    def _check_stop_sequences(self, sequences: tuple[tuple[int, ...], ...]) -> None:
        # Every generated token is held against all of them.
        if len(sequences) > MAX_STOP_SEQUENCES:
            raise InvalidArgument("stop_sequences", f"must be at most {MAX_STOP_SEQUENCES}, got {len(sequences)}")
        for index, stop in enumerate(sequences):
            field = f"stop_sequences[{index}].tokens"
            if not 1 <= len(stop) <= MAX_STOP_TOKENS:
                raise InvalidArgument(field, f"must be 1 to {MAX_STOP_TOKENS} tokens, got {len(stop)}")
            self._check_tokens(field, stop)

    def _check_sampling(self, generation: Generation) -> None:
        sampling, alternatives = generation.sampling, min(MAX_ALTERNATIVES, self._vocabulary_size)
        rules = (
            ("max_tokens", generation.max_tokens >= 1, "must be at least 1"),
            ("num_generated", generation.num_generated >= 0, "must be 0 or more"),
            ("top_k_log_probabilities", 0 <= generation.top_k <= alternatives, f"must be 0 to {alternatives}"),
            ("sampling.temperature", 0 <= sampling.temperature < inf, "must be 0 or more, and finite"),
            ("sampling.top_k", sampling.top_k >= 0, "must be 0 or more"),
            ("sampling.top_p", 0 < sampling.top_p <= 1, "must be above 0 and at most 1"),
            (
                "sampling.repetition_penalty",
                LEAST_PENALTY <= sampling.repetition_penalty <= MOST_PENALTY,
                f"must be {LEAST_PENALTY:g} to {MOST_PENALTY:g}",
            ),
            (
                "sampling.repetition_window",
                1 <= sampling.repetition_window <= MAX_REMEMBERED,
                f"must be 1 to {MAX_REMEMBERED}",
            ),
        )
        for field, holds, problem in rules:
            if not holds:
                raise InvalidArgument(field, problem)

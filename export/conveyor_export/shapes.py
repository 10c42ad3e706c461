"""Full tensor shapes from a signature, and tensors of those shapes to try a model with."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from conveyor.signature import NoiseSpec, Signature, StateSpec, TensorSpec

Length = TypeVar("Length", int, int | str)


def full_shape(spec: TensorSpec, num_sessions: Length, num_steps: Length) -> tuple[Length, ...]:
    """The spec's shape with its batch and time axes put in."""
    shape: list[Length] = list(spec.shape)
    axes = [(spec.axis.batch, num_sessions), (spec.axis.time, num_steps)]
    for axis, length in sorted((axis, length) for axis, length in axes if axis is not None):
        shape.insert(axis, length)
    return tuple(shape)


def has_batch(signature: Signature) -> bool:
    """True if any tensor has a batch axis; without one a run serves a single session."""
    return any(spec.axis.batch is not None for spec in (*signature.fed, *signature.states))


def has_time(signature: Signature) -> bool:
    """True if a stream input or noise has a time axis; without one a run is a single step."""
    return any(spec.axis.time is not None for spec in signature.timed)


def random_inputs(signature: Signature, num_sessions: int, num_steps: int, rng: torch.Generator) -> dict[str, Tensor]:
    """Stream inputs, contexts, and noises of their distribution; integers within `max_token`."""
    highest = 1 if signature.max_token is None else signature.max_token
    return _random(signature.fed, num_sessions, num_steps, highest, rng)


def random_states(signature: Signature, num_sessions: int, rng: torch.Generator) -> dict[str, Tensor]:
    """States unlike the initial ones: uniform in -1..1, integers 0 to 7."""
    return _random(signature.states, num_sessions, 1, 7, rng)


def initial_states(signature: Signature, num_sessions: int) -> dict[str, Tensor]:
    """The states that a session opens with; zeros where they are computed from contexts."""
    return {spec.name: _initial(spec, num_sessions) for spec in signature.states}


def _initial(spec: StateSpec, num_sessions: int) -> Tensor:
    dtype = getattr(torch, spec.dtype)
    if spec.initial is None:
        return torch.zeros(full_shape(spec, num_sessions, 1), dtype=dtype)
    value = torch.tensor(spec.initial, dtype=dtype).view(spec.shape)
    if spec.axis.batch is None:
        return value
    return value.unsqueeze(spec.axis.batch).expand(full_shape(spec, num_sessions, 1)).contiguous()


def _random(
    specs: Sequence[TensorSpec], num_sessions: int, num_steps: int, highest: int, rng: torch.Generator
) -> dict[str, Tensor]:
    tensors = {}
    for spec in specs:
        shape, dtype = full_shape(spec, num_sessions, num_steps), getattr(torch, spec.dtype)
        if isinstance(spec, NoiseSpec):
            draw = torch.randn if spec.distribution == "normal" else torch.rand
            tensors[spec.name] = draw(shape, generator=rng)
        elif dtype.is_floating_point:
            tensors[spec.name] = (torch.rand(shape, generator=rng) * 2 - 1).to(dtype)
        else:
            tensors[spec.name] = torch.randint(0, highest + 1, shape, generator=rng).to(dtype)
    return tensors

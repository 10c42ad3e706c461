"""What a proof runs: sequences for some sessions, from fresh or random states, and the ways to cut them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from conveyor.signature import Signature
from conveyor_export.protocol import Tensors, call_initialise
from conveyor_export.shapes import has_batch, initial_states, random_inputs, random_states

# (sessions, chunk lengths): one step, a few, and enough for a recurrent error to grow.
_CASES: tuple[tuple[int, tuple[int, ...]], ...] = ((1, (1,)), (1, (3, 1, 9)), (2, (7, 1, 4)), (5, (1, 13, 2, 17)))

ONE_PASS, STEP_BY_STEP = "in one pass", "step by step"


@dataclass(frozen=True, slots=True)
class Case:
    """A sequence for some sessions.

    In cases of initial states, states and contexts that have an initialiser are what the module gives; in the others
    they are random.
    """

    num_sessions: int
    chunks: tuple[int, ...]
    states: Tensors
    inputs: Tensors
    origin: str

    @property
    def num_steps(self) -> int:
        """Length of the sequence."""
        return sum(self.chunks)


def make_cases(module: nn.Module, signature: Signature) -> Iterator[Case]:
    """All cases, the same ones each time.

    Raises:
        SourceError: the module initialises nothing, though its signature says so.
    """
    rng = torch.Generator().manual_seed(0)
    for num_sessions, chunks in _CASES:
        if num_sessions > 1 and not has_batch(signature):
            continue
        if signature.fixed_steps:
            chunks = (signature.fixed_steps,) * sum(chunks)
        for fresh in (True, False):
            states = {} if fresh else random_states(signature, num_sessions, rng)
            inputs = random_inputs(signature, num_sessions, sum(chunks), rng)
            if fresh:
                inputs, states = open_sessions(module, signature, inputs, num_sessions)
            yield Case(num_sessions, chunks, states, inputs, "initial states" if fresh else "random states")


def open_sessions(
    module: nn.Module, signature: Signature, inputs: Tensors, num_sessions: int
) -> tuple[Tensors, Tensors]:
    """The inputs with the contexts that the module computes, and the states that the sessions begin with.

    Raises:
        SourceError: the module initialises nothing, though its signature says so.
    """
    states = initial_states(signature, num_sessions)
    found = call_initialise(module, given(signature, inputs)) if signature.initialisers else {}
    return _replaced(inputs, found), _replaced(states, found)


def make_plans(signature: Signature, case: Case) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The chunk lengths in which a graph is to take a case, and what to call them."""
    if signature.fixed_steps:
        yield STEP_BY_STEP if signature.fixed_steps == 1 else f"{signature.fixed_steps} at a time", case.chunks
        return
    yield ONE_PASS, (case.num_steps,)
    yield STEP_BY_STEP, (1,) * case.num_steps
    yield f"in chunks of {case.chunks}", case.chunks


def given(signature: Signature, inputs: Tensors) -> Tensors:
    """The contexts that a client gives."""
    return {context.name: inputs[context.name] for context in signature.given_contexts}


def cut(signature: Signature, inputs: Tensors, start: int, stop: int) -> Tensors:
    """The steps from `start` to `stop` of every stream input and noise; contexts are the same at every step."""
    times = {spec.name: spec.axis.time for spec in signature.fed}
    pieces = {}
    for name, tensor in inputs.items():
        time = times[name]
        pieces[name] = tensor if time is None else tensor.narrow(time, start, stop - start).contiguous()
    return pieces


def _replaced(tensors: Tensors, found: Tensors) -> Tensors:
    return {name: found.get(name, tensor) for name, tensor in tensors.items()}

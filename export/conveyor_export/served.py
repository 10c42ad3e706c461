"""Holds a running server against eager PyTorch: the same inputs, contexts and noise, in sessions that take turns."""

import asyncio
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from conveyor.client import Client
from conveyor.engine.noise import draw_noise
from conveyor.signature import Signature, TensorSpec
from conveyor_export.cases import open_sessions
from conveyor_export.proof import differences
from conveyor_export.protocol import Tensors, call_module, signature_of
from conveyor_export.runtime import Arrays
from conveyor_export.shapes import random_inputs

# How the sessions of a model cut their steps: at no time are all at the same position.
CUTS = ((16,), (1, 7, 1, 7), (3, 3, 5, 2, 3))


async def served_difference(client: Client, name: str, module: nn.Module) -> float:
    """The largest absolute difference between a server's answers and the module's, over all of its outputs.

    Inputs and contexts are random. The module takes all steps at once, and the noise that the server draws.
    """
    signature = signature_of(module)
    inputs = random_inputs(signature, len(CUTS), sum(CUTS[0]), torch.Generator().manual_seed(0))
    inputs |= _noises(signature)
    fed, states = open_sessions(module, signature, inputs, len(CUTS))
    expected, _ = call_module(module, fed, states)
    sessions = range(len(CUTS))
    answers = await asyncio.gather(*(_step(client, name, signature, inputs, number) for number in sessions))
    return max(
        difference
        for number, answer in enumerate(answers)
        for _, difference in differences(_shares(signature.outputs, expected, number), answer)
    )


def _noises(signature: Signature) -> Tensors:
    """What the server draws for sessions whose seeds are 0, 1, 2 ..."""
    seeds, first_steps = np.arange(len(CUTS), dtype=np.uint64), np.zeros(len(CUTS), np.uint64)
    return {
        spec.name: torch.from_numpy(draw_noise(spec, number, seeds, first_steps, sum(CUTS[0])))
        for number, spec in enumerate(signature.noises)
    }


async def _step(client: Client, name: str, signature: Signature, inputs: Tensors, number: int) -> Arrays:
    """All outputs of one session, steps first."""
    contexts = _shares(signature.given_contexts, inputs, number)
    streams = _shares(signature.inputs, inputs, number)
    outputs = [spec.name for spec in signature.outputs]
    answers, start = [], 0
    async with client.open(name, seed=number, contexts=contexts) as session:
        for length in CUTS[number]:
            chunk = {stream: array[start : start + length] for stream, array in streams.items()}
            answers.append(await session.step(chunk or length, outputs=outputs))
            start += length
    return {output: np.concatenate([answer[output].numpy() for answer in answers]) for output in outputs}


def _shares(specs: Sequence[TensorSpec], tensors: Tensors, number: int) -> Arrays:
    return {spec.name: _share(spec, tensors[spec.name], number).numpy() for spec in specs}


def _share(spec: TensorSpec, tensor: Tensor, number: int) -> Tensor:
    """A session's part of a tensor; steps first, if there are any."""
    batch = spec.axis.batch or 0
    if spec.axis.time is None:
        return tensor.movedim(batch, 0)[number]
    return tensor.movedim((spec.axis.time, batch), (0, 1))[:, number]

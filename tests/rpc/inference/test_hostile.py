"""Requests that no client of good will makes."""

import random
from typing import Any

import grpc
import numpy as np

from conveyor.inference.infer_pb2 import ModelInferRequest
from tests.rpc.inference.requests import infer, outputs_of, tokens
from tests.rpc.requests import failure_of, read_all

NUM_REQUESTS = 600
LENGTHS = (-1, 0, 1, 2, 3, 2**31, 2**62, -(2**63), 2**63 - 1)
NAMES = ("", "tokens", "features", "x", "logits", "y", "h", "sequence_id", "triton_", "\0", "é" * 500, "x" * 5000)
DATATYPES = ("", "INT64", "FP32", "FP16", "BYTES", "BOOL", "int64", "\udcff".encode("utf8", "replace").decode())
KINDS = ("bool_param", "int64_param", "uint64_param", "string_param", "double_param")
PARAMETERS = ("sequence_id", "sequence_start", "sequence_end", "timeout", "priority", "classification", "other")


def hostile(chance: random.Random) -> ModelInferRequest:
    """A request of which some things are as they should be."""
    request = ModelInferRequest(model_name=chance.choice(("tiny", "frames", "lone", "stateless", "walk", "none", "")))
    request.model_version = chance.choice(("", "", "", "1", "-1", "2", "9" * 30, "x"))
    request.id = str(chance.random())
    for _ in range(chance.choice((0, 1, 1, 1, 2))):
        tensor = request.inputs.add(name=chance.choice(NAMES), datatype=chance.choice(DATATYPES))
        tensor.shape.extend(chance.choice(LENGTHS) for _ in range(chance.choice((0, 1, 2, 2, 3, 40))))
        fill_contents(tensor, chance)
    for _ in range(chance.choice((0, len(request.inputs), 1))):
        request.raw_input_contents.append(chance.randbytes(chance.choice((0, 1, 4, 8, 12, 24, 999))))
    for _ in range(chance.choice((0, 0, 1, 3))):
        request.outputs.add(name=chance.choice(NAMES))
    for name in chance.sample(PARAMETERS, chance.randrange(5)):
        set_parameter(request.parameters[name], chance)
    return request


def fill_contents(tensor: Any, chance: random.Random) -> None:
    if chance.random() < 0.5:
        tensor.contents.int64_contents.extend(chance.choice(LENGTHS) for _ in range(chance.choice((0, 1, 2, 9))))
    if chance.random() < 0.3:
        tensor.contents.fp32_contents.extend(chance.choice((0.0, float("nan"), 1e38)) for _ in range(3))


def set_parameter(parameter: Any, chance: random.Random) -> None:
    kind = chance.choice((*KINDS, "none"))
    if kind == "string_param":
        parameter.string_param = chance.choice(("", "a", "x" * 1000, "é"))
    elif kind != "none":
        setattr(parameter, kind, chance.choice((0, 1)) if kind == "bool_param" else chance.choice((0, 1, 7)))


async def test_hostile_requests_hurt_nobody(oip: Any) -> None:
    """Each gets its answer, none of them a defect's, and a sequence among them is what it is without them."""
    chance = random.Random(11)
    requests, mine = [], []
    for number in range(NUM_REQUESTS):
        requests.append(hostile(chance))
        if number % 30 == 0:
            mine.append(len(requests))
            requests.append(infer("tiny", "mine", sequence_start=number == 0, tokens=tokens(number % 20)))
    call = oip.ModelStreamInfer()
    for request in requests:
        await call.write(request)
    await call.done_writing()
    responses: list[Any] = []
    await read_all(call, responses)

    errors = [response.error_message for response in responses]
    assert len(errors) == len(requests)
    assert len({error.split(":")[0] for error in errors}) > 20  # many kinds were reached
    assert not [error for error in errors if "internal error" in error]
    steps = [outputs_of(responses[place].infer_response)["logits"][0, 0] for place in mine]
    whole = infer("tiny", "whole", sequence_start=True, tokens=tokens(*(n % 20 for n in range(0, NUM_REQUESTS, 30))))
    np.testing.assert_allclose(steps, outputs_of(await oip.ModelInfer(whole))["logits"][0], rtol=0, atol=1e-5)


async def test_a_message_that_is_too_long_ends_its_call_alone(oip: Any) -> None:
    """RESOURCE_EXHAUSTED, and the server goes on."""
    too_long = infer("tiny", 1)
    too_long.raw_input_contents.append(bytes(17 << 20))

    failure = await failure_of(oip.ModelInfer(too_long))

    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    await oip.ModelInfer(infer("tiny", 1, sequence_start=True, tokens=tokens(1)))

"""Requests that no client of good will makes."""

import random
from typing import Any

import grpc
import numpy as np
import pytest

from conveyor.inference.infer_pb2 import ModelInferRequest, ModelStreamInferResponse
from tests.rpc.inference.requests import infer, outputs_of, tokens, torn
from tests.rpc.requests import failure_of, read_all

SERVICE = "/inference.GRPCInferenceService"
NUM_REQUESTS = 600
LENGTHS = (-1, 0, 1, 2, 3, 2**31, 2**62, -(2**63), 2**63 - 1)
NAMES = ("", "tokens", "features", "x", "logits", "y", "h", "sequence_id", "triton_", "\0", "é" * 500, "x" * 5000)
DATATYPES = ("", "INT64", "FP32", "FP16", "BYTES", "BOOL", "int64", "\udcff".encode("utf8", "replace").decode())
KINDS = ("bool_param", "int64_param", "uint64_param", "string_param", "double_param")
PARAMETERS = ("sequence_id", "sequence_start", "sequence_end", "timeout", "priority", "classification", "other")


def hostile(chance: random.Random) -> ModelInferRequest:
    """A request of which some things are as they should be."""
    request = ModelInferRequest(
        model_name=chance.choice(("tiny", "frames", "lone", "stateless", "scaled", "walk", "none", ""))
    )
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


X = np.arange(3, dtype=np.float32)[np.newaxis]


def sound() -> list[ModelInferRequest]:
    """Requests that are answered, in both forms, to models of each kind."""
    typed = infer("tiny", "typed", sequence_start=True, sequence_end=True)
    typed.inputs.add(name="tokens", datatype="INT64", shape=[1, 2], contents={"int64_contents": [3, 4]})
    scaled = infer("scaled")
    scaled.inputs.add(name="x", datatype="FP32", shape=[1, 3], contents={"fp32_contents": X[0]})
    scaled.inputs.add(name="by", datatype="FP32", shape=[1, 1], contents={"fp32_contents": [3.0]})
    return [
        typed,
        scaled,
        infer("tiny", 7, id="raw", sequence_start=True, timeout=10**6, priority=1, tokens=tokens(1, 2)),
        infer("frames", 7, sequence_start=True, features=X[np.newaxis], outputs=["y"]),
        infer("lone", 7, sequence_start=True, features=X[np.newaxis]),
        infer("stateless", x=X, outputs=["double", "y"]),
        infer("pictures", 7, sequence_start=True, tokens=tokens(1), picture=X),
        infer("control", 7, sequence_start=True, sequence_end=True, x=np.ones((1, 2, 1), np.float32)),
        infer("walk", 7, sequence_start=True, home=np.zeros((1, 2), np.float32)),
    ]


def respelt(request: ModelInferRequest, chance: random.Random) -> bytes:
    """The request with one tensor in a shape of as many elements, or of none that there can be."""
    changed = ModelInferRequest.FromString(request.SerializeToString())
    if not changed.inputs:
        return changed.SerializeToString()
    shape = chance.choice(changed.inputs).shape
    before = list(shape)
    del shape[:]
    shape.extend(chance.choice((before[::-1], [-n for n in before], [*before, 1], [1] * 70, [-1, -1], [0], [])))
    return changed.SerializeToString()


async def unary_outcome(channel: grpc.aio.Channel, raw: bytes) -> str:
    """What came of it, in a word or a sentence."""
    try:
        await channel.unary_unary(f"{SERVICE}/ModelInfer")(raw)
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"
    return "answered"


async def stream_outcome(channel: grpc.aio.Channel, raw: bytes) -> str:
    """The same, on a stream: one that is still open afterwards, unless the message cannot be parsed."""
    call = channel.stream_stream(
        f"{SERVICE}/ModelStreamInfer", response_deserializer=ModelStreamInferResponse.FromString
    )()
    try:
        await call.write(raw)
        first = await call.read()
        await call.write(infer("stateless", x=X).SerializeToString())
        second = await call.read()
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"
    finally:
        call.cancel()
    assert not second.error_message
    return first.error_message or "answered"


@pytest.mark.parametrize("outcome_of", [unary_outcome, stream_outcome])
async def test_mutated_messages_hurt_nobody(oip: Any, channel: grpc.aio.Channel, outcome_of: Any) -> None:
    """Each is answered or refused, and sequences that go on meanwhile are what they are without them."""
    chance, requests, outcomes = random.Random(12), sound(), list[str]()
    assert {await outcome_of(channel, request.SerializeToString()) for request in requests} == {"answered"}
    stream, steps = oip.ModelStreamInfer(), list[np.ndarray]()
    for number in range(NUM_REQUESTS):
        request = chance.choice(requests)
        raw = respelt(request, chance) if number % 4 == 0 else torn(request.SerializeToString(), chance)
        outcomes.append(await outcome_of(channel, raw))
        if number % 30 == 0:
            fields = {"sequence_start": number == 0, "tokens": tokens(number % 20)}
            await stream.write(infer("tiny", "streamed", **fields))
            answers = [(await stream.read()).infer_response, await oip.ModelInfer(infer("tiny", "unary", **fields))]
            steps.append(np.stack([outputs_of(answer)["logits"][0, 0] for answer in answers]))

    assert not [outcome for outcome in outcomes if outcome.startswith(("INTERNAL", "UNKNOWN", "internal error"))]
    assert len({outcome[:50] for outcome in outcomes}) > 20  # many kinds were reached
    assert outcomes.count("answered") > 20
    whole = infer("tiny", "whole", sequence_start=True, tokens=tokens(*(n % 20 for n in range(0, NUM_REQUESTS, 30))))
    expected = outputs_of(await oip.ModelInfer(whole))["logits"][0]
    for got in np.swapaxes(steps, 0, 1):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


async def test_a_message_that_is_too_long_ends_its_call_alone(oip: Any) -> None:
    """RESOURCE_EXHAUSTED, and the server goes on."""
    too_long = infer("tiny", 1)
    too_long.raw_input_contents.append(bytes(17 << 20))

    failure = await failure_of(oip.ModelInfer(too_long))

    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    await oip.ModelInfer(infer("tiny", 1, sequence_start=True, tokens=tokens(1)))

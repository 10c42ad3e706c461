"""Short forms of requests, by our own stubs."""

import random
from typing import Any

import numpy as np

from conveyor.inference import infer_pb2

DATATYPES = {"int64": "INT64", "float32": "FP32"}
Request = infer_pb2.ModelInferRequest


def infer(model: str, sequence_id: int | str = 0, *, id: str = "", **fields: Any) -> Request:  # noqa: A002 - its name
    """A request: arrays are inputs, flags and numbers are parameters, `outputs` are names."""
    request = Request(model_name=model, id=id)
    request.outputs.extend(Request.InferRequestedOutputTensor(name=name) for name in fields.pop("outputs", ()))
    for name, value in fields.items():
        if isinstance(value, np.ndarray):
            request.inputs.add(name=name, datatype=DATATYPES[value.dtype.name], shape=value.shape)
            request.raw_input_contents.append(value.tobytes())
        elif isinstance(value, bool):
            request.parameters[name].bool_param = value
        else:
            request.parameters[name].int64_param = value
    if isinstance(sequence_id, str):
        request.parameters["sequence_id"].string_param = sequence_id
    elif sequence_id:
        request.parameters["sequence_id"].int64_param = sequence_id
    return request


def tokens(*values: int) -> np.ndarray:
    """Tokens as a batch of one."""
    return np.array([values])


def outputs_of(response: infer_pb2.ModelInferResponse) -> dict[str, np.ndarray]:
    """The outputs, which must be of float32."""
    assert {output.datatype for output in response.outputs} <= {"FP32"}
    return {
        output.name: np.frombuffer(raw, np.float32).reshape(tuple(output.shape))
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


async def logits(oip: Any, *args: Any, **fields: Any) -> np.ndarray:
    """The logits `[steps, V]` of one unary request."""
    return outputs_of(await oip.ModelInfer(infer(*args, **fields)))["logits"][0]


def torn(raw: bytes, chance: random.Random) -> bytes:
    """The bytes with some changed, left out, or put in from elsewhere in them."""
    out = bytearray(raw)
    for _ in range(chance.choice((1, 1, 2, 6))):
        at, length = chance.randrange(len(out) + 1), chance.choice((1, 1, 2, 8))
        match chance.randrange(4):
            case 0:
                out[at : at + length] = chance.randbytes(length)
            case 1:
                out[at : at + length] = bytes(byte ^ 1 << chance.randrange(8) for byte in out[at : at + length])
            case 2:
                del out[at : at + length]
            case _:
                out[at:at] = raw[chance.randrange(len(raw)) :][:length]
    return bytes(out)

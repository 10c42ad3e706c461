"""Long strings of requests of all kinds, against what plain ONNX Runtime says of them."""

import asyncio
import random
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from conveyor.inference import inference_service_pb2_grpc
from tests.rpc.conftest import StartServer
from tests.rpc.inference.alone import Alone
from tests.rpc.inference.requests import infer, outputs_of, tokens
from tests.rpc.requests import read_all

NUM_STREAMS, NUM_REQUESTS = 4, 60
IDS = (1, 2, "three")
BAD = {"a token": tokens(1, 99), "a batch": np.ones((2, 1), np.int64), "a type": np.ones((1, 1), np.float32)}


class Client:
    """Sends requests to sequences of its own, without waiting, and knows what each has to be answered."""

    def __init__(self, number: int, alone: Alone) -> None:
        self._chance = random.Random(number)
        self._number, self._alone = number, alone
        self._seen: dict[str, list[int]] = {}  # of open sequences, the tokens
        self.requests: list[Any] = []
        self.expected: list[str | np.ndarray] = []  # the error, or the last step's logits
        for _ in range(NUM_REQUESTS):
            self._add(f"{number}-{self._chance.choice(IDS)}")

    def _add(self, sequence_id: str) -> None:
        chance = self._chance
        flags = {"sequence_start": chance.random() < 0.3, "sequence_end": chance.random() < 0.15}
        given = [chance.randrange(20) for _ in range(chance.randint(1, 3))]
        bad = chance.choice(list(BAD)) if chance.random() < 0.2 else None
        self.requests.append(infer("tiny", sequence_id, tokens=BAD[bad] if bad else tokens(*given), **flags))
        if flags["sequence_start"]:
            self._seen.pop(sequence_id, None)
        is_open = flags["sequence_start"] or sequence_id in self._seen
        if bad:
            self.expected.append("token" if is_open else "")  # either of its faults
        elif not is_open:
            self.expected.append("must specify the START flag on the first request of the sequence")
        else:
            seen = self._seen.setdefault(sequence_id, [])
            seen += given
            self.expected.append(self._alone.run([{"tokens": np.array(seen)[:, None]}])[0][-1, 0])
            if flags["sequence_end"]:
                del self._seen[sequence_id]

    async def run(self, oip: Any) -> None:
        """Sends all on one stream and looks at the answers."""
        call, responses = oip.ModelStreamInfer(), list[Any]()
        for request in self.requests:
            await call.write(request)
        await call.done_writing()
        await read_all(call, responses)
        for response, expected in zip(responses, self.expected, strict=True):
            if isinstance(expected, str):
                assert response.error_message
                assert expected in response.error_message
            else:
                assert not response.error_message
                got = outputs_of(response.infer_response)["logits"][0, -1]
                np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"num_slots": 2}, {"store": "sqlite", "durability": "sync"}])
async def test_every_answer_is_the_one_that_it_has_to_be(
    models: Path, start: StartServer, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Begun, begun anew, ended, never begun, or wrong in between: whatever came before on whichever stream."""
    server = await start(state_dir=tmp_path, **settings)
    alone = Alone(models / "tiny" / "1" / "model.onnx")
    async with grpc.aio.insecure_channel(server.address) as channel:
        oip = inference_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        await asyncio.gather(*(Client(number, alone).run(oip) for number in range(NUM_STREAMS)))

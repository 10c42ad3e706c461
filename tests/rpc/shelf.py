"""A repository that a test fills while a server serves it, and clients that never stop stepping their sessions."""

import asyncio
import random
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import torch

from conveyor.v1 import model_pb2, session_pb2
from tests.models import LanguageModel, make_model, save_model
from tests.rpc.requests import Failure, logits, read_failure, step, to_array

VOCABULARY = 20
TOLERANCE = 1e-4


@cache
def version_model(seed: int) -> tuple[onnx.ModelProto, LanguageModel]:
    """A language model; each seed's has other weights."""
    return make_model(vocabulary_size=VOCABULARY, seed=seed)


class Shelf:
    """The versions of the model `lm`: number N has the weights of seed N, if the test does not say otherwise."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "lm"

    def add(self, version: int, seed: int | None = None) -> None:
        """Puts a version there as an operator should: it is whole when it gets its name."""
        proto, _ = version_model(version if seed is None else seed)
        save_model(self.path / ".new", proto)
        self.remove(version)
        (self.path / ".new").rename(self.path / str(version))

    def remove(self, version: int) -> None:
        """Takes a version away."""
        shutil.rmtree(self.path / str(version), ignore_errors=True)

    def settings(self, text: str) -> None:
        """Writes the model's settings."""
        (self.path / "conveyor.toml").write_text(text)


async def list_models(stub: Any) -> model_pb2.ListModelsResponse:
    """What the server says that it has."""
    response: model_pb2.ListModelsResponse = await stub.ListModels(model_pb2.ListModelsRequest())
    return response


async def versions(stub: Any) -> dict[int, str]:
    """The loaded versions of `lm`, and their states."""
    return {
        model.version: model_pb2.ModelState.Name(model.state).removeprefix("MODEL_STATE_").lower()
        for model in (await list_models(stub)).models
        if model.name == "lm"
    }


async def load(stub: Any, name: str = "lm") -> list[int]:
    """Has the server load a model; returns its versions."""
    return [model.version for model in (await stub.LoadModel(model_pb2.LoadModelRequest(name=name))).models]


class Walker:
    """A client that steps one session for as long as it may, and holds each answer against PyTorch's."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self._random = random.Random(0)
        self.position = 0
        self.failure: Failure | None = None
        self._is_closing = False

    async def open(self, **fields: Any) -> "Walker":
        """Opens the session, and begins to step it."""
        request = session_pb2.OpenSessionRequest(model_name="lm", **fields)
        session = (await self._stub.OpenSession(request)).session
        self.session_id, self.version = session.session_id, session.model_version
        self._reference = version_model(self.version)[1]
        self._states = self._reference.initial_states(1)
        self._task = asyncio.create_task(self._walk())
        return self

    async def _walk(self) -> None:
        while not self._is_closing:
            tokens = [self._random.randrange(VOCABULARY) for _ in range(self._random.randint(1, 3))]
            try:
                result = await step(self._stub, self.session_id, tokens, position=self.position, outputs=logits())
            except grpc.aio.AioRpcError as error:
                self.failure = read_failure(error)
                return
            with torch.no_grad():
                expected, self._states = self._reference(torch.tensor(tokens)[:, None], self._states)
            self.position += len(tokens)
            assert result.position == self.position
            np.testing.assert_allclose(to_array(result.outputs["logits"]), expected[:, 0], atol=TOLERANCE)

    async def go_on(self, stub: Any = None) -> None:
        """Begins to step again after a loss, on another server if need be: nothing that was answered may be gone."""
        self._stub = stub or self._stub
        self._is_closing, self.failure = False, None
        request = session_pb2.ResumeSessionRequest(session_id=self.session_id, received_position=self.position)
        assert (await self._stub.ResumeSession(request)).session.position == self.position
        self._task = asyncio.create_task(self._walk())

    async def advance(self) -> None:
        """Waits until it has been answered again, or has failed."""
        position = self.position
        while self.position == position and not self._task.done():
            await asyncio.sleep(0.002)

    async def stop(self) -> None:
        """Stops stepping; raises what was wrong with an answer."""
        self._is_closing = True
        await self._task

    async def close(self) -> None:
        """Ends the session."""
        await self.stop()
        if self.failure is None:
            await self._stub.CloseSession(session_pb2.CloseSessionRequest(session_id=self.session_id))

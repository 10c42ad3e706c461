# ruff: noqa: ASYNC109 - a timeout spans retries, and is part of the request's meaning
"""The same client without `await`: an event loop on a thread of its own does the work."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypedDict, TypeVar, Unpack

from conveyor.client.client import REPLAY_BYTES, Client
from conveyor.client.durability import Durability
from conveyor.client.errors import ClientError, Unavailable
from conveyor.client.inputs import Inputs, Tokens
from conveyor.client.results import GeneratedToken, Model, SessionInfo, StepResult
from conveyor.client.session import Session

Result = TypeVar("Result")


class OpenOptions(TypedDict, total=False):
    """What `Client.open` takes beside the model."""

    version: int
    alias: str
    session_id: str | None
    seed: int | None
    idle_timeout: float | None
    max_lifetime: float | None
    contexts: Mapping[str, Any] | None
    durability: Durability | str | None


class ImportOptions(TypedDict, total=False):
    """What `Client.import_session` takes beside the checkpoint."""

    session_id: str | None
    seed: int | None
    idle_timeout: float | None
    max_lifetime: float | None
    durability: Durability | str | None


class ForkOptions(TypedDict, total=False):
    """What `Session.fork` takes beside the session id."""

    seed: int | None
    durability: Durability | str | None


class StatelessOptions(TypedDict, total=False):
    """What `Client.step_stateless` takes beside the data and the model."""

    checkpoint: bytes | None
    version: int
    seed: int | None
    contexts: Mapping[str, Any] | None
    outputs: Sequence[str]
    top_k: int
    last_only: bool


class GenerateOptions(TypedDict, total=False):
    """What `Session.generate` takes beside the prompt."""

    max_tokens: int
    temperature: float | None
    top_k: int
    top_p: float | None
    repetition_penalty: float | None
    repetition_window: int
    stop: Sequence[Tokens]
    seed: int | None
    log_probabilities: int
    timeout: float | None


class LoopThread:
    """An event loop that runs on a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()  # or what is submitted while the loop stops would never run
        self._is_stopped = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="conveyor-client", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Runs it there and waits for its result; an interrupt of the waiting thread cancels it.

        Raises:
            Unavailable: the loop has been stopped.
        """
        future = self._submit(coroutine)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _submit(self, coroutine: Coroutine[Any, Any, Result]) -> "Future[Result]":
        with self._lock:
            if not self._is_stopped:
                return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        coroutine.close()  # Python complains of one that was never awaited
        raise Unavailable("the client is closed")

    def iterate(self, generator: AsyncGenerator[Result, None]) -> Iterator[Result]:
        """Yields what it yields; leaving early closes it."""
        try:
            while True:
                try:
                    yield self.run(_next(generator))
                except StopAsyncIteration:
                    return
        finally:
            if not self._is_stopped:
                self.run(generator.aclose())

    def stop(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Closes what ran there, and ends the loop and its thread. Once they have ended it does nothing."""
        with self._lock:
            if self._is_stopped:
                return
            self._is_stopped = True
            last = asyncio.run_coroutine_threadsafe(_finish(close), self._loop)
        last.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _finish(close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Closes, and lets gRPC's own tasks see the end of their calls; a loop that is closed over them complains."""
    await close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    if tasks:
        _, unfinished = await asyncio.wait(tasks, timeout=1.0)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)


async def _next(generator: AsyncGenerator[Result, None]) -> Result:
    return await generator.__anext__()


class SyncSession:
    """`Session` without `await`. Use it from one thread at a time."""

    def __init__(self, thread: LoopThread, session: Session) -> None:
        self._thread = thread
        self._session = session

    @property
    def id(self) -> str:
        """Identifier of the session."""
        return self._session.id

    @property
    def position(self) -> int:
        """Number of steps that the server has confirmed."""
        return self._session.position

    @property
    def model(self) -> Model:
        """The session's model."""
        return self._session.model

    @property
    def replayed_steps(self) -> int:
        """See `Session.replayed_steps`."""
        return self._session.replayed_steps

    def step(
        self,
        data: Inputs,
        outputs: Sequence[str] = (),
        top_k: int = 0,
        last_only: bool = False,
        timeout: float | None = None,
    ) -> StepResult:
        """See `Session.step`."""
        return self._thread.run(self._session.step(data, outputs, top_k, last_only, timeout))

    def score(self, data: Tokens, timeout: float | None = None) -> list[float]:
        """See `Session.score`."""
        return self._thread.run(self._session.score(data, timeout))

    def generate(self, prompt: Tokens = (), **options: Unpack[GenerateOptions]) -> Iterator[GeneratedToken]:
        """See `Session.generate`: the same options."""
        return self._thread.iterate(self._session.generate(prompt, **options))

    def refresh(self) -> SessionInfo:
        """See `Session.refresh`."""
        return self._thread.run(self._session.refresh())

    def fork(self, session_id: str | None = None, **options: Unpack[ForkOptions]) -> "SyncSession":
        """See `Session.fork`: the same options."""
        return SyncSession(self._thread, self._thread.run(self._fork(session_id, options)))

    def export(self) -> bytes:
        """See `Session.export`."""
        return self._thread.run(self._session.export())

    def close(self) -> None:
        """See `Session.close`."""
        self._thread.run(self._session.close())

    async def _fork(self, session_id: str | None, options: ForkOptions) -> Session:
        return await self._session.fork(session_id, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except ClientError:
            if error is None:
                raise


class SyncClient:
    """`Client` without `await`. May be used from several threads."""

    def __init__(
        self, address: str, timeout: float = 30.0, *, shards: int = 1, replay_bytes: int = REPLAY_BYTES
    ) -> None:
        self._thread = LoopThread()
        self._client = self._thread.run(_make(address, timeout, shards, replay_bytes))

    @property
    def fenced_answers(self) -> int:
        """See `Client.fenced_answers`."""
        return self._client.fenced_answers

    def models(self) -> list[Model]:
        """See `Client.models`."""
        return self._thread.run(self._client.models())

    def model(self, name: str = "", version: int = 0) -> Model:
        """See `Client.model`."""
        return self._thread.run(self._client.model(name, version))

    def open(self, model: str = "", **options: Unpack[OpenOptions]) -> SyncSession:
        """See `Client.open`: the same options."""
        return SyncSession(self._thread, self._thread.run(self._open(model, options)))

    def session(self, session_id: str) -> SyncSession:
        """See `Client.session`."""
        return SyncSession(self._thread, self._thread.run(self._client.session(session_id)))

    def sessions(self, model: str = "", *, stored: bool = False) -> list[SessionInfo]:
        """See `Client.sessions`."""
        return self._thread.run(self._client.sessions(model, stored=stored))

    def import_session(self, checkpoint: bytes, **options: Unpack[ImportOptions]) -> SyncSession:
        """See `Client.import_session`: the same options."""
        return SyncSession(self._thread, self._thread.run(self._import(checkpoint, options)))

    def step_stateless(
        self, data: Inputs, model: str = "", **options: Unpack[StatelessOptions]
    ) -> tuple[StepResult, bytes]:
        """See `Client.step_stateless`: the same options."""
        return self._thread.run(self._client.step_stateless(data, model, **options))

    def close(self) -> None:
        """See `Client.close`."""
        self._thread.stop(self._client.close)

    async def _open(self, model: str, options: OpenOptions) -> Session:
        return await self._client.open(model, **options)

    async def _import(self, checkpoint: bytes, options: ImportOptions) -> Session:
        return await self._client.import_session(checkpoint, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def connect_sync(
    address: str, *, timeout: float = 30.0, shards: int = 1, replay_bytes: int = REPLAY_BYTES
) -> SyncClient:
    """A client of the server at `host:port`, for `with`: see `Client`. Nothing is sent before the first call."""
    return SyncClient(address, timeout, shards=shards, replay_bytes=replay_bytes)


async def _make(address: str, timeout: float, shards: int, replay_bytes: int) -> Client:
    return Client(address, timeout, shards=shards, replay_bytes=replay_bytes)  # on the loop that will use it

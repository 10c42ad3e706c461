"""Whatever happens to the servers and the store, a session's client gets what PyTorch gives it alone, or is told."""

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conveyor.engine import engine as engine_module
from conveyor.engine import store_writer
from conveyor.engine.durability import Durability, Mode
from conveyor.engine.engine import Engine
from conveyor.engine.engines import Engines
from conveyor.engine.limits import Device, Limits
from conveyor.engine.seal import Seal
from conveyor.engine.store_writer import StoreWriter
from conveyor.engine.work import Answer, Chunk, EndReason, Generation, OpenOptions, Token, Want
from conveyor.errors import Aborted, ConveyorError, NotFound, Unavailable, WrongPosition
from conveyor.graph.model_file import model_from_proto
from conveyor.store import Saved, StoreError
from conveyor.store.memory import MemoryStore
from tests.engine.harness import LOGITS, alone
from tests.engine.test_engine import Counts
from tests.models import make_model

VOCABULARY = 20
TOLERANCE = 1e-4
SESSIONS = ("a", "b", "c")
DURABILITIES = {
    "a": Durability(Mode.ASYNC, every_steps=3, every_seconds=0.002),
    "b": Durability(Mode.SYNC),
    "c": Durability(Mode.NONE),
}
MAX_TRIES = 50

tokens = st.integers(0, VOCABULARY - 1)
session_ids = st.sampled_from(SESSIONS)
replicas = st.integers(0, 1)
actions = st.one_of(
    st.tuples(st.just("steps"), session_ids, replicas, st.lists(st.lists(tokens, min_size=1, max_size=5), max_size=4)),
    st.tuples(st.just("steps"), session_ids, replicas, st.lists(st.lists(tokens, min_size=1, max_size=5), max_size=4)),
    st.tuples(st.just("generate"), session_ids, replicas, st.lists(tokens, min_size=1, max_size=4), st.integers(1, 9)),
    st.tuples(st.just("lose_answers"), session_ids, replicas, st.lists(tokens, min_size=1, max_size=4), st.booleans()),
    st.tuples(st.just("crash"), replicas),
    st.tuples(st.just("drain"), replicas),
    st.tuples(st.just("store_fails"), st.integers(1, 3)),
    st.tuples(st.just("store_forgets")),
    st.tuples(st.just("fork"), session_ids, replicas),
    st.tuples(st.just("carry"), session_ids, replicas),
    st.tuples(st.just("wait")),
    st.tuples(st.just("late"), session_ids, replicas, st.integers(0, 9)),
)


class ShakyStore(MemoryStore):
    """Refuses as many writes as it is told to."""

    num_failures = 0

    async def save(self, saves: Any, *, must_replicate: bool) -> list[Saved]:
        self._fail()
        return await super().save(saves, must_replicate=must_replicate)

    async def create(self, saves: Any, *, must_replicate: bool = False) -> list[int]:
        self._fail()
        return await super().create(saves)

    def _fail(self) -> None:
        if self.num_failures:
            self.num_failures -= 1
            raise StoreError("it was told to")

    def forget(self) -> None:
        """Restarts empty."""
        self._entries.clear()


@cache
def model() -> Any:
    return make_model("lstm", 2, vocabulary_size=VOCABULARY, seed=3)


class Replica:
    """A server without its gRPC."""

    def __init__(self, store: ShakyStore) -> None:
        limits = Limits(num_slots=2, max_batch=2)
        self.store = store
        self.writer = StoreWriter(store)
        self.counts = Counts()
        self.engine = Engine(
            model_from_proto(model()[0]), "lm", 1, limits, Device("cpu", num_threads=1), self.counts, self.writer
        )
        self.engines = Engines([self.engine], self.writer, Seal(b"key"))
        self.writer.start()
        self.engine.start()

    def crash(self) -> None:
        """Forgets all that a killed process would."""
        self.writer._saves.clear()
        for session in list(self.engine._core.table):
            self.engine._core.end(session, EndReason.MOVED)
        self.engine._deliver()

    async def drain(self) -> None:
        """Stops in order, and starts again."""
        await self.engine.drain(5.0)
        self.engine._is_draining = False

    async def stop(self) -> None:
        await self.engine.stop()
        await self.writer.stop(1.0)


class FutureSink:
    """Gives each chunk's outcome as a future, and all tokens of a generation."""

    stays = False

    def __init__(self) -> None:
        self.future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.tokens: list[Token] = []

    def put(self, tag: Any, outcome: Answer | Token | ConveyorError) -> None:
        if isinstance(outcome, Token):
            self.tokens.append(outcome)
            if outcome.finish_reason is None:
                return
        if self.future.done():
            return
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)  # type: ignore[arg-type]

    def flush(self) -> None: ...
    def end(self, session_id: str, reason: EndReason, position: int) -> None: ...


@dataclass
class Client:
    """One session's client: what it has sent and been answered, and how it comes back after a loss."""

    session_id: str
    durability: Durability
    text: list[int] = field(default_factory=list)
    epoch: int = 0
    is_lost: bool = False
    past: list[tuple[int, int]] = field(default_factory=list)  # positions and epochs at which it has sent

    @property
    def received(self) -> int:
        return len(self.text)


class World:
    """Two servers, a store and three clients."""

    def __init__(self, replicas: list[Replica], quiet: Engine) -> None:
        self.replicas = replicas
        self.quiet = quiet  # that nothing happens to
        self.store = replicas[0].store
        self.clients: dict[str, Client] = {}
        self.num_opened = 0

    async def open(self, name: str) -> None:
        self.num_opened += 1
        client = self.clients[name] = Client(f"{name}-{self.num_opened}", DURABILITIES[name])
        options = OpenOptions(client.session_id, seed=7, durability=client.durability)
        for _ in range(MAX_TRIES):
            try:
                view = await self.replicas[0].engines.open("lm", 1, options, {})
            except Unavailable:
                await asyncio.sleep(0.005)
            else:
                client.epoch = view.epoch
                return
        pytest.fail("the session could not be opened")

    async def play(self, action: tuple[Any, ...]) -> None:
        await getattr(self, f"do_{action[0]}")(*action[1:])

    async def do_steps(self, name: str, place: int, chunks: list[list[int]]) -> None:
        """Several chunks in flight; what fails of them is sent again, one after the other."""
        client, engines = self.clients[name], self.replicas[place].engines
        if not chunks or not await self.catch_up(name, place):
            return
        sinks, start = [], client.received
        for chunk in chunks:
            sinks.append(FutureSink())
            try:
                engines.of_session(client.session_id).submit(_chunk(client, chunk, LOGITS, sinks[-1], start))
            except ConveyorError as error:
                sinks[-1].future.set_exception(error)
            start += len(chunk)
        for chunk, sink in zip(chunks, sinks, strict=True):
            try:
                answer = await sink.future
            except ConveyorError:
                answer = await self.step(name, place, chunk, LOGITS)
            if answer is None:
                return
            self.take(client, chunk, answer)

    async def step(self, name: str, place: int, chunk: list[int], want: Want) -> Answer | None:
        """One chunk, until it is answered; None if the session is gone, as it may be."""
        client = self.clients[name]
        for _ in range(MAX_TRIES):
            if not await self.catch_up(name, place):
                return None
            sink = FutureSink()
            try:
                engine = self.replicas[place].engines.of_session(client.session_id)
                engine.submit(_chunk(client, chunk, want, sink, client.received))
                return await sink.future
            except (Unavailable, Aborted, NotFound, WrongPosition):
                await asyncio.sleep(0.005)
        pytest.fail("the chunk was never answered")

    async def catch_up(self, name: str, place: int) -> bool:
        """Brings the session on this server to where the client is; False if it is gone, as it may be."""
        client, engines = self.clients[name], self.replicas[place].engines
        for _ in range(MAX_TRIES):
            try:
                view = await engines.resume(client.session_id, client.received, client.epoch)
                if view.position < client.received:
                    sink = FutureSink()
                    missing = client.text[view.position :]
                    engines.of_session(client.session_id).submit(
                        _chunk(client, missing, Want(scoring=True), sink, view.position, view.position)
                    )
                    await sink.future
            except (Unavailable, Aborted, WrongPosition):
                await asyncio.sleep(0.005)
            except NotFound:
                if client.durability.mode is not Mode.NONE and not client.is_lost:
                    # A server that lost it to the other may be told so only now.
                    await asyncio.sleep(0.005)
                    continue
                await self.open(name)
                return False
            else:
                assert view.epoch >= client.epoch or client.durability.mode is Mode.NONE
                client.epoch = view.epoch
                return True
        if client.is_lost:
            await self.open(name)
            return False
        pytest.fail("the session did not come back")

    def take(self, client: Client, chunk: list[int], answer: Answer) -> None:
        start = client.received
        client.past.append((start, client.epoch))
        client.text += chunk
        assert answer.position == client.received
        assert answer.epoch >= client.epoch
        if answer.durable_position is not None:
            assert answer.durable_position <= start
        expected = alone(model()[1], client.text)[start:]
        np.testing.assert_allclose(answer.outputs["logits"], expected, atol=TOLERANCE)

    async def do_generate(self, name: str, place: int, prompt: list[int], max_tokens: int) -> None:
        """A generation that is cut off after some tokens, and goes on elsewhere, draws what one alone does."""
        client = self.clients[name]
        if not await self.catch_up(name, place):
            return
        expected = await self.drawn_alone(client, prompt, max_tokens)
        drawn: list[int] = []
        scores: list[float] = []
        start = client.received + len(prompt)
        for attempt in range(MAX_TRIES):
            sink, engines = FutureSink(), self.replicas[place].engines
            rest = prompt + drawn if not attempt else client.text[client.received :]
            work = Generation(
                client.session_id,
                list(rest) if attempt == 0 else [],
                max_tokens - len(drawn),
                sink,
                position=client.received,
                epoch=client.epoch,
            )
            if not drawn and attempt:
                work.tokens = list(prompt)
            try:
                engines.of_session(client.session_id).submit(work)
                await sink.future
            except (Unavailable, Aborted, NotFound, WrongPosition):
                await asyncio.sleep(0.002)
            got = [token.token for token in sink.tokens]
            scores += [token.log_probability for token in sink.tokens]
            if got and not drawn:
                client.text += prompt
            drawn += got
            client.text += got
            if len(drawn) == max_tokens:
                break
            if not await self.catch_up(name, place):
                return
        logits = alone(model()[1], client.text).astype(np.float64)[start - 1 : -1]
        log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        np.testing.assert_allclose(scores, log_probabilities[np.arange(len(drawn)), drawn], atol=TOLERANCE)
        assert drawn == expected

    async def do_lose_answers(self, name: str, place: int, chunk: list[int], is_generation: bool) -> None:
        """A server answers, and drains in that moment; the answers are lost, and asked for again at the other one."""
        client, engines = self.clients[name], self.replicas[place].engines
        if not await self.catch_up(name, place):
            return
        start, parts = client.received, [chunk] if is_generation else [chunk, chunk[:1]]
        sinks = [FutureSink() for _ in parts]
        with contextlib.suppress(ConveyorError):
            engine = engines.of_session(client.session_id)
            if is_generation:
                engine.submit(
                    Generation(client.session_id, list(chunk), 3, sinks[0], position=start, epoch=client.epoch)
                )
            else:
                for part, sink in zip(parts, sinks, strict=True):
                    engine.submit(_chunk(client, part, LOGITS, sink, start, client.received))
                    start += len(part)
            await asyncio.gather(*(sink.future for sink in sinks), return_exceptions=True)
        await self.do_drain(place)
        if is_generation:
            await self.do_generate(name, 1 - place, chunk, 3)
            return
        for part in parts:
            answer = await self.step(name, 1 - place, part, LOGITS)
            if answer is None:
                return
            self.take(client, part, answer)

    async def drawn_alone(self, client: Client, prompt: list[int], max_tokens: int) -> list[int]:
        self.quiet.open(OpenOptions("quiet", seed=7))
        sink = FutureSink()
        if client.text:
            scored = FutureSink()
            inputs = {"tokens": np.array(client.text)}
            self.quiet.submit(Chunk("quiet", inputs, Want(scoring=True), scored))
            await scored.future
        self.quiet.submit(Generation("quiet", list(prompt), max_tokens, sink))
        await sink.future
        self.quiet.close("quiet")
        return [token.token for token in sink.tokens]

    async def do_crash(self, place: int) -> None:
        self.replicas[place].crash()

    async def do_drain(self, place: int) -> None:
        self.store.num_failures = 0
        await self.replicas[place].drain()

    async def do_store_fails(self, count: int) -> None:
        self.store.num_failures = count

    async def do_store_forgets(self) -> None:
        """A store that restarts empty gets back what servers hold; what none holds is lost, and its client told."""
        held = {session.session_id for replica in self.replicas for session in replica.engine._core.table}
        self.store.num_failures = 0
        self.store.forget()
        for client in self.clients.values():
            client.is_lost |= client.session_id not in held
        # Until they have saved again, a crash loses them too.
        for client in self.clients.values():
            for _ in range(MAX_TRIES if client.durability.mode is not Mode.NONE and client.session_id in held else 0):
                for replica in self.replicas:
                    if client.session_id in replica.engine:
                        session = replica.engine._core.table.get(client.session_id)
                        replica.engine._core.checkpointer.renew(session, 0.0)
                await asyncio.sleep(0.005)
                if await self.store.read(client.session_id):
                    break

    async def do_fork(self, name: str, place: int) -> None:
        client, engines = self.clients[name], self.replicas[place].engines
        if not await self.catch_up(name, place):
            return
        try:
            view = await engines.fork(client.session_id, client.received, OpenOptions(durability=Durability()))
        except (Unavailable, Aborted):
            return
        fork = Client(view.session_id, Durability(), list(client.text))
        sink = FutureSink()
        engines.of_session(view.session_id).submit(_chunk(fork, [1, 2], LOGITS, sink, fork.received))
        self.take(fork, [1, 2], await sink.future)
        await engines.close(view.session_id)

    async def do_carry(self, name: str, place: int) -> None:
        """Exported here, imported there."""
        client = self.clients[name]
        if not await self.catch_up(name, place):
            return
        try:
            sealed, position = await self.replicas[place].engines.export(client.session_id, client.received)
        except (Unavailable, Aborted):
            return
        engines = self.replicas[1 - place].engines
        view = await engines.import_(sealed, OpenOptions(durability=Durability()))
        assert view.position == position == client.received
        copy = Client(view.session_id, Durability(), list(client.text))
        sink = FutureSink()
        engines.of_session(view.session_id).submit(_chunk(copy, [3], LOGITS, sink, copy.received))
        self.take(copy, [3], await sink.future)
        await engines.close(view.session_id)

    async def do_late(self, name: str, place: int, num_back: int) -> None:
        """What was sent long ago arrives now, at a server that had been paused: it moves nothing."""
        client, engines = self.clients[name], self.replicas[place].engines
        position, epoch = next(iter(client.past[-num_back - 1 :]), (0, client.epoch))
        if not epoch or epoch >= client.epoch:
            return
        record = await self.store.read(client.session_id)
        with contextlib.suppress(ConveyorError):
            await engines.holding(client.session_id, position, epoch)
            late = Client(client.session_id, client.durability, client.text[:position], epoch)
            sink = FutureSink()
            engines.of_session(client.session_id).submit(_chunk(late, [4], LOGITS, sink, position))
        if record is not None:
            now = await self.store.read(client.session_id)
            assert now is not None
            assert now.epoch == record.epoch

    async def do_wait(self) -> None:
        await asyncio.sleep(0.01)


def _chunk(
    client: Client, steps: list[int], want: Want, sink: FutureSink, position: int, acknowledged: int | None = None
) -> Chunk:
    return Chunk(
        client.session_id,
        {"tokens": np.array(steps, np.int64)},
        want,
        sink,
        position=position,
        acknowledged=client.received if acknowledged is None else acknowledged,
        epoch=client.epoch,
    )


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Nothing waits for long: a client here tries again at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_writer, "FIRST_PAUSE", 0.002)
        patch.setattr(store_writer, "LONGEST_PAUSE", 0.005)
        patch.setattr(engine_module, "SAVE_INTERVAL", 0.002)
        yield


@given(st.lists(actions, max_size=25))
@settings(max_examples=60)
def test_sessions_survive_whatever_happens(program: list[tuple[Any, ...]]) -> None:
    """Crashes, drains, moves, retries and store trouble change no answer: none is lost, doubled or wrong."""
    asyncio.run(_survive(program))


async def _survive(program: list[tuple[Any, ...]]) -> None:
    store = ShakyStore()
    async with AsyncExitStack() as stack:
        replicas = [Replica(store), Replica(store)]
        quiet = Replica(ShakyStore())
        for replica in (*replicas, quiet):
            stack.push_async_callback(replica.stop)
        world = World(replicas, quiet.engine)
        for name in SESSIONS:
            await world.open(name)
        for action in program:
            await world.play(action)
        store.num_failures = 0
        for name in SESSIONS:
            for place in (0, 1):
                answer = await world.step(name, place, [5], LOGITS)
                if answer is not None:
                    world.take(world.clients[name], [5], answer)

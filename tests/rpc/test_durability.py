"""Durability as clients ask for it and are told of it, and sessions that are only in the store."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from conveyor.server import start_server
from conveyor.settings import Settings
from conveyor.store.sqlite import SqliteStore
from conveyor.v1 import session_pb2, step_pb2
from tests.rpc.conftest import Peer
from tests.rpc.requests import failure_of, get, open_session, resume, step, stored_at
from tests.store.saves import save_of

NONE, ASYNC, SYNC = (
    session_pb2.Durability(mode=session_pb2.DurabilityMode.Value(f"DURABILITY_MODE_{name}"))
    for name in ("NONE", "ASYNC", "SYNC")
)
Pair = tuple[Peer, Peer]
Join = Callable[..., Awaitable[Peer]]


def durability(**fields: Any) -> session_pb2.Durability:
    """One of seconds and steps."""
    every = fields.pop("every", None)
    message = session_pb2.Durability(**fields)
    if every is not None:
        message.every.CopyFrom(Duration(seconds=int(every), nanos=int(every % 1 * 1e9)))
    return message


async def stored_sessions(stub: Any, **fields: Any) -> list[session_pb2.Session]:
    """All that the store lists."""
    response = await stub.ListSessions(session_pb2.ListSessionsRequest(stored=True, **fields))
    return list(response.sessions)


async def close(stub: Any, session_id: str) -> session_pb2.CloseSessionResponse:
    """Asks for the end of a session."""
    response: session_pb2.CloseSessionResponse = await stub.CloseSession(
        session_pb2.CloseSessionRequest(session_id=session_id)
    )
    return response


class TestAsking:
    async def test_what_is_granted_is_told(self, pair: Pair) -> None:
        """Numbers that are not given are the server's, and so is a mode that is not. It may idle for ten minutes."""
        stub = pair[0].stub
        asked = {
            "server's": (None, durability(mode=ASYNC.mode, every_steps=4, every=600)),
            "numbers": (durability(every_steps=9), durability(mode=ASYNC.mode, every_steps=9, every=600)),
            "time": (durability(mode=ASYNC.mode, every=0.5), durability(mode=ASYNC.mode, every_steps=4, every=0.5)),
            "none": (NONE, NONE),
            "sync": (SYNC, SYNC),
        }
        for name, (wanted, granted) in asked.items():
            await open_session(stub, name, durability=wanted)
            session = await get(stub, name)
            assert session.durability == granted, name
            assert session.epoch == (name != "none")
            assert session.HasField("durable_position") == (name != "none")

    @pytest.mark.parametrize(
        ("wanted", "field"),
        [
            (session_pb2.Durability(mode=9), "durability.mode"),  # type: ignore[arg-type] # what a later client may ask
            (durability(mode=ASYNC.mode, every_steps=-1), "durability.every_steps"),
            (durability(every_steps=-1), "durability.every_steps"),
            (durability(mode=ASYNC.mode, every=0), "durability.every"),
        ],
    )
    async def test_malformed_durability_is_refused(self, pair: Pair, wanted: Any, field: str) -> None:
        """INVALID_ARGUMENT names the field, and nothing is opened."""
        failure = await failure_of(open_session(pair[0].stub, "a", durability=wanted))
        assert (failure.code, failure.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)
        assert (await failure_of(get(pair[0].stub, "a"))).code is grpc.StatusCode.NOT_FOUND

    @pytest.mark.parametrize("wanted", [ASYNC, SYNC])
    async def test_without_a_store_there_is_none(self, stub: Any, wanted: session_pb2.Durability) -> None:
        """FAILED_PRECONDITION; the server's default there is to store nothing."""
        failure = await failure_of(open_session(stub, "a", durability=wanted))
        listing = await failure_of(stub.ListSessions(session_pb2.ListSessionsRequest(stored=True)))
        await open_session(stub, "a", durability=durability(every_steps=3))
        session = await get(stub, "a")

        assert (failure.code, failure.message) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "durability: the server has no store",
        )
        assert (listing.code, listing.message) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "stored: the server has no store",
        )
        assert (session.durability, session.epoch) == (NONE, 0)

    async def test_an_id_in_the_store_is_in_use(self, pair: Pair) -> None:
        """ALREADY_EXISTS on every server."""
        a, b = pair
        await open_session(a.stub, "a")
        failure = await failure_of(open_session(b.stub, "a"))
        assert failure.code is grpc.StatusCode.ALREADY_EXISTS


class TestResults:
    async def test_a_result_tells_what_is_durable(self, pair: Pair) -> None:
        """For ASYNC the checkpoint that the client is not behind, for SYNC too; nothing for what is not stored."""
        stub = pair[0].stub
        for name, wanted in (("async", ASYNC), ("sync", SYNC), ("none", NONE)):
            await open_session(stub, name, durability=wanted)
        first = await step(stub, "async", [1, 2, 3, 4])
        await stored_at(stub, "async", 4)
        second = await step(stub, "async", [5])
        third = await step(stub, "sync", [1, 2])
        fourth = await step(stub, "sync", [3])
        mortal = await step(stub, "none", [1, 2, 3, 4])

        assert [(result.durable_position, result.epoch) for result in (first, second)] == [(0, 1), (4, 1)]
        assert [(result.durable_position, result.epoch) for result in (third, fourth)] == [(0, 1), (2, 1)]
        assert (mortal.HasField("durable_position"), mortal.epoch) == (False, 0)

    async def test_a_stream_tells_it_too(self, pair: Pair) -> None:
        """Results of a stream have both fields."""
        await open_session(pair[0].stub, "a", durability=SYNC)
        call = pair[0].stub.Stream()
        await call.write(step_pb2.StreamRequest(chunks=[{"session_id": "a", "tokens": [1, 2]}]))
        result = (await call.read()).results[0]
        call.cancel()

        assert (result.HasField("durable_position"), result.durable_position, result.epoch) == (True, 0, 1)


class TestStored:
    async def test_a_stored_session_is_looked_at_where_it_is(self, pair: Pair) -> None:
        """From any server, without being taken up, with all that is known of it."""
        a, b = pair
        await open_session(a.stub, "a", durability=SYNC, seed=5)
        await step(a.stub, "a", [1, 2])
        session = await get(b.stub, "a")
        own = await get(a.stub, "a")

        assert session.residence == session_pb2.RESIDENCE_STORED
        assert (session.model_name, session.model_version, session.seed) == ("tiny", 1, 5)
        assert (session.position, session.durable_position, session.epoch) == (2, 2, 1)
        assert session.durability == SYNC
        assert abs(session.create_time.ToMilliseconds() - own.create_time.ToMilliseconds()) < 50
        assert own.epoch == 1
        assert b.server.engines.of_model("tiny").num_sessions == 0

    async def test_the_store_lists_its_sessions(self, pair: Pair) -> None:
        """Those of all servers, in pages, by model if asked for; those without durability are not among them."""
        a, b = pair
        for peer, name, model in ((a, "a", "tiny"), (b, "b", "tiny"), (b, "f", "frames")):
            await open_session(peer.stub, name, model)
        await open_session(a.stub, "mortal", durability=NONE)
        names, token = [], ""
        while True:
            request = session_pb2.ListSessionsRequest(stored=True, page_size=2, page_token=token)
            page = await a.stub.ListSessions(request)
            names += [session.session_id for session in page.sessions]
            assert page.total_size == 0
            token = page.next_page_token
            if not token:
                break

        assert sorted(names) == ["a", "b", "f"]
        assert [session.session_id for session in await stored_sessions(a.stub, model_name="frames")] == ["f"]
        assert await stored_sessions(a.stub, model_name="unknown") == []

    async def test_a_stored_session_is_closed_where_it_is(self, pair: Pair) -> None:
        """By any server; who had it lets go of it, and nobody finds it any more."""
        a, b = pair
        await open_session(a.stub, "a", durability=SYNC)
        await step(a.stub, "a", [1, 2])
        assert (await close(b.stub, "a")).position == 2
        assert await stored_sessions(a.stub) == []
        for ask in (lambda: get(b.stub, "a"), lambda: close(b.stub, "a"), lambda: resume(b.stub, "a")):
            assert (await failure_of(ask())).code is grpc.StatusCode.NOT_FOUND
        late = await failure_of(step(a.stub, "a", [3]))

        assert (
            late.code is grpc.StatusCode.UNAVAILABLE
        )  # it cannot know yet; its client will be told when it asks again
        assert (await failure_of(step(a.stub, "a", [3]))).code is grpc.StatusCode.NOT_FOUND

    async def test_a_closed_session_cannot_be_taken_up(self, pair: Pair) -> None:
        """Not even right after it was closed, by another server; its id is free."""
        a, b = pair
        await open_session(a.stub, "a", durability=SYNC)
        await close(a.stub, "a")
        assert (await failure_of(step(b.stub, "a", [1]))).code is grpc.StatusCode.NOT_FOUND
        await open_session(b.stub, "a")
        assert (await get(b.stub, "a")).epoch == 2

    async def test_a_damaged_record_is_told_and_can_be_closed(self, pair: Pair, tmp_path: Path) -> None:
        """FAILED_PRECONDITION says what is wrong with it; it is left out of lists, and hides no other."""
        a, _ = pair
        store = SqliteStore(tmp_path / "state" / "sessions.db")
        await open_session(a.stub, "sound")
        await store.create([save_of("bad", 3, head=b"nonsense")])
        for ask in (lambda: get(a.stub, "bad"), lambda: resume(a.stub, "bad"), lambda: step(a.stub, "bad", [1])):
            failure = await failure_of(ask())
            assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
            assert failure.message.endswith("the stored session cannot be used: these bytes are not a checkpoint")
        assert [session.session_id for session in await stored_sessions(a.stub)] == ["sound"]
        assert (await close(a.stub, "bad")).position == 3
        assert (await failure_of(get(a.stub, "bad"))).code is grpc.StatusCode.NOT_FOUND
        await store.stop()

    async def test_a_drained_server_leaves_its_sessions(self, join: Join, models: Path, tmp_path: Path) -> None:
        """Streams are told so; the next server takes up all of them, those without durability too."""
        settings = {"store": "sqlite", "state_dir": tmp_path / "state", "num_threads": 1, "port": 0, "metrics_port": 0}
        leaving = await start_server(Settings(models=models, **settings))
        async with grpc.aio.insecure_channel(leaving.address) as channel:
            stub: Any = type((await join()).stub)(channel)
            for name, wanted in (("a", ASYNC), ("s", SYNC), ("n", NONE)):
                await open_session(stub, name, durability=wanted)
            call = stub.Stream()
            chunks = [step_pb2.Chunk(session_id=name, tokens=[1, 2]) for name in "asn"]
            await call.write(step_pb2.StreamRequest(chunks=chunks))
            read = 0
            while read < 3:
                read += len((await call.read()).results)
            stopping = asyncio.create_task(leaving.stop())
            ended = {end.session_id: end.reason for end in (await call.read()).ended}
            assert ended == dict.fromkeys("asn", session_pb2.END_REASON_DRAINED)
            assert (await failure_of(call.read())).code is grpc.StatusCode.UNAVAILABLE
            await stopping
        other = await join()
        for name in "asn":
            assert (await step(other.stub, name, [3], position=2)).position == 3
        assert [(await get(other.stub, name)).epoch for name in "asn"] == [2, 2, 0]


class TestTrouble:
    async def test_a_store_that_does_not_answer_is_told(self, join: Join, tmp_path: Path) -> None:
        """UNAVAILABLE with a delay, for all that needs it; sessions without durability go on."""
        (tmp_path / "state" / "sessions.db").mkdir(parents=True)
        stub = (await join()).stub
        for call in (
            open_session(stub, "a"),
            open_session(stub, "a", durability=SYNC),
            get(stub, "a"),
            resume(stub, "a"),
            step(stub, "a", [1]),
            close(stub, "a"),
            stored_sessions(stub),
        ):
            failure = await failure_of(call)
            assert failure.code is grpc.StatusCode.UNAVAILABLE
            assert failure.message.startswith("the store does not answer: ")
            assert failure.retry_seconds is not None
        await open_session(stub, "a", durability=NONE)
        assert (await step(stub, "a", [1])).position == 1

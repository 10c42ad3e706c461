"""Sessions that are taken up by another server, or again by the same, and clients that go on after a loss."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from conveyor.store import Record
from conveyor.store.sqlite import SqliteStore
from conveyor.v1 import generate_pb2, session_pb2, step_pb2
from tests.models import make_model, save_model
from tests.rpc.conftest import Peer
from tests.rpc.requests import (
    failure_of,
    get,
    logits,
    open_session,
    read_all,
    resume,
    step,
    stored_at,
    to_array,
    until,
)
from tests.rpc.test_durability import ASYNC, NONE, SYNC
from tests.rpc.test_generation import GREEDY, generate, request, tokens_of
from tests.store.saves import save_of

Pair = tuple[Peer, Peer]
Join = Callable[..., Awaitable[Peer]]
TEXT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]
ABORTED = grpc.StatusCode.ABORTED
OUT_OF_RANGE, NOT_FOUND = grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.NOT_FOUND
FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


async def expected(stub: Any) -> np.ndarray:
    """Logits of the whole text, as one session alone gets them."""
    session = await open_session(stub, durability=NONE)
    return to_array((await step(stub, session, TEXT, outputs=logits())).outputs["logits"])


async def check_goes_on(stub: Any, session_id: str, position: int) -> None:
    """The rest of the text gives what it would have given without the loss."""
    result = await step(stub, session_id, TEXT[position:], position=position, outputs=logits())
    np.testing.assert_allclose(
        to_array(result.outputs["logits"]), (await expected(stub))[position:], atol=1e-4, rtol=1e-4
    )


async def open_at(stub: Any, position: int, durability: Any = ASYNC, session_id: str = "a") -> None:
    """Opens a session and lets it consume so much of the text."""
    await open_session(stub, session_id, durability=durability, seed=1)
    if position:
        await step(stub, session_id, TEXT[:position])


async def record_of(store: SqliteStore, session_id: str) -> Record:
    record = await store.read(session_id)
    assert record is not None
    return record


class TestResumeSession:
    async def test_a_live_session_is_returned_as_it_is(self, pair: Pair) -> None:
        """Wherever it is, and for a client that has all answers, or can be sent those that it lacks."""
        stub = pair[0].stub
        await open_at(stub, 3)
        await step(stub, "a", TEXT[3:5], position=3)
        for fields in ({}, {"received_position": 5}, {"received_position": 9}, {"received_position": 3}, {"epoch": 1}):
            session = await resume(stub, "a", **fields)
            assert (session.position, session.epoch) == (5, 1), fields
            assert session.residence == session_pb2.RESIDENCE_RESIDENT
        assert (await step(stub, "a", TEXT[3:5], position=3)).position == 5

    async def test_a_live_session_without_the_answers_is_taken_anew(self, pair: Pair) -> None:
        """From the newest checkpoint that is not ahead of the client, if its next answers are not kept any more."""
        stub = pair[0].stub
        await open_at(stub, 4)
        await stored_at(stub, "a", 4)
        for place in (4, 5, 6):
            await step(stub, "a", TEXT[place : place + 1], position=place)
        session = await resume(stub, "a", received_position=5)

        assert (session.position, session.epoch) == (4, 2)
        await check_goes_on(stub, "a", 4)

    async def test_a_session_without_durability_is_never_thrown_away(self, pair: Pair) -> None:
        """What the client lacks is gone, and the session still there."""
        stub = pair[0].stub
        await open_at(stub, 4, NONE)
        await step(stub, "a", TEXT[4:6], position=4)

        assert (await resume(stub, "a", received_position=2)).position == 6

    async def test_a_lost_server_loses_what_it_had_not_stored(self, pair: Pair) -> None:
        """The client sends again what came after the newest checkpoint."""
        a, b = pair
        await open_at(a.stub, 4)
        await stored_at(a.stub, "a", 4)
        await step(a.stub, "a", TEXT[4:6], position=4)
        session = await resume(b.stub, "a", received_position=6, epoch=1)

        assert (session.position, session.epoch, session.durable_position) == (4, 2, 4)
        assert session.residence == session_pb2.RESIDENCE_SPILLED
        await check_goes_on(b.stub, "a", 4)

    async def test_nothing_answered_of_a_sync_session_is_lost(self, pair: Pair) -> None:
        """It is where the last answer said."""
        a, b = pair
        await open_at(a.stub, 3, SYNC)
        await step(a.stub, "a", TEXT[3:5], position=3)

        assert (await resume(b.stub, "a", received_position=5)).position == 5
        await check_goes_on(b.stub, "a", 5)

    async def test_no_checkpoint_ahead_of_the_client_is_taken(self, pair: Pair) -> None:
        """A client that did not read the last answer gets the state before it."""
        a, b = pair
        await open_at(a.stub, 3, SYNC)
        await step(a.stub, "a", TEXT[3:5], position=3)
        assert (await resume(b.stub, "a", received_position=4)).position == 3
        await check_goes_on(b.stub, "a", 3)

    async def test_a_client_behind_every_checkpoint_is_told(self, pair: Pair) -> None:
        """FAILED_PRECONDITION, and the session stays with the server that has it."""
        a, b = pair
        await open_at(a.stub, 4, SYNC)
        for place in (4, 5):
            await step(a.stub, "a", TEXT[place : place + 1], position=place)
        for stub in (a.stub, b.stub):
            failure = await failure_of(resume(stub, "a", received_position=2))
            assert failure.code is FAILED_PRECONDITION
            assert "every checkpoint is ahead of the client, which is at 2: [" in failure.message
        assert (await step(a.stub, "a", TEXT[6:7], position=6)).epoch == 1

    async def test_an_unknown_session_is_not_found(self, pair: Pair, stub: Any) -> None:
        """With a store and without."""
        for each in (pair[0].stub, stub):
            assert (await failure_of(resume(each, "nobody"))).code is NOT_FOUND

    async def test_a_server_that_lost_it_takes_it_anew(self, pair: Pair) -> None:
        """A client that has seen a higher epoch is not served from what was left behind."""
        a, b = pair
        await open_at(a.stub, 4)
        await stored_at(a.stub, "a", 4)
        await resume(b.stub, "a")
        result = await step(b.stub, "a", TEXT[4:9], position=4)
        await stored_at(b.stub, "a", 9)
        assert result.epoch == 2
        assert (await get(a.stub, "a")).position == 4  # it does not know
        session = await resume(a.stub, "a", received_position=9, epoch=2)

        assert (session.position, session.epoch) == (9, 3)
        await check_goes_on(a.stub, "a", 9)
        assert (await step(b.stub, "a", TEXT[9:10], position=9, epoch=3)).epoch == 4


class TestChunks:
    async def test_a_chunk_takes_its_session_up(self, pair: Pair) -> None:
        """Where the checkpoint is it is consumed as if nothing had been."""
        a, b = pair
        await open_at(a.stub, 4)
        await stored_at(a.stub, "a", 4)
        await check_goes_on(b.stub, "a", 4)

        assert (await get(b.stub, "a")).epoch == 2

    async def test_a_chunk_elsewhere_is_told_where_to_begin(self, pair: Pair) -> None:
        """OUT_OF_RANGE with the position of the checkpoint."""
        a, b = pair
        await open_at(a.stub, 6)
        await stored_at(a.stub, "a", 6)
        await step(a.stub, "a", TEXT[6:8], position=6)
        failure = await failure_of(step(b.stub, "a", TEXT[8:9], position=8))

        assert (failure.code, failure.position) == (OUT_OF_RANGE, "6")
        await check_goes_on(b.stub, "a", 6)

    async def test_the_acknowledged_position_counts(self, pair: Pair) -> None:
        """A client with several chunks in flight gets a state that it has all answers for."""
        a, b = pair
        await open_at(a.stub, 3, SYNC)
        for place in (3, 4, 5):
            await step(a.stub, "a", TEXT[place : place + 1], position=place, acknowledged_position=3)
        result = await step(b.stub, "a", TEXT[4:5], position=4, acknowledged_position=4)

        assert result.position == 5
        assert (await get(b.stub, "a")).epoch == 2

    async def test_a_chunk_without_a_position_goes_on_from_the_newest(self, pair: Pair) -> None:
        """Wherever the session is."""
        a, b = pair
        await open_at(a.stub, 5, SYNC)

        assert (await step(b.stub, "a", [1])).position == 6

    @pytest.mark.parametrize("wrong", [False, True])
    async def test_chunks_in_flight_wait_for_their_session(self, pair: Pair, wrong: bool) -> None:
        """All that come while it is taken up are answered in their order, beside those of other sessions."""
        a, b = pair
        await open_at(a.stub, 4)
        await stored_at(a.stub, "a", 4)
        await open_session(b.stub, "here", durability=NONE)
        call = b.stub.Stream()
        first = 5 if wrong else 4
        chunks = [
            step_pb2.Chunk(session_id="a", request_id=place, tokens=[TEXT[place]], position=place, outputs=logits())
            for place in range(first, 12)
        ]
        others = [step_pb2.Chunk(session_id="here", request_id=99, tokens=[1])]
        await call.write(step_pb2.StreamRequest(chunks=[*chunks[:3], *others, *chunks[3:6]]))
        await call.write(step_pb2.StreamRequest(chunks=chunks[6:]))
        await call.done_writing()
        responses: list[step_pb2.StreamResponse] = []
        await read_all(call, responses)
        results = [result for response in responses for result in response.results if result.session_id == "a"]

        assert [result.request_id for result in results] == list(range(first, 12))
        assert sum(len(response.results) for response in responses) == len(chunks) + 1
        if wrong:
            assert {(result.error.code, result.error.position) for result in results} == {(11, 4)}
        else:
            whole = np.concatenate([to_array(result.outputs["logits"]) for result in results])
            np.testing.assert_allclose(whole, (await expected(b.stub))[4:], atol=1e-4)
            assert {result.epoch for result in results} == {2}

    async def test_chunks_of_nobody_are_refused_in_order(self, pair: Pair) -> None:
        """NOT_FOUND for each of them; the stream and other sessions go on."""
        stub = pair[0].stub
        call = stub.Stream()
        chunks = [step_pb2.Chunk(session_id="nobody", request_id=number, tokens=[1]) for number in range(5)]
        await call.write(step_pb2.StreamRequest(chunks=chunks))
        await call.done_writing()
        responses: list[step_pb2.StreamResponse] = []
        await read_all(call, responses)
        results = [result for response in responses for result in response.results]

        assert [(result.request_id, result.error.code) for result in results] == [(number, 5) for number in range(5)]

    async def test_a_stream_that_is_given_up_while_it_waits(self, pair: Pair) -> None:
        """Its session is taken up or not, and can be stepped either way."""
        a, b = pair
        await open_at(a.stub, 4)
        await stored_at(a.stub, "a", 4)
        call = b.stub.Stream()
        await call.write(step_pb2.StreamRequest(chunks=[{"session_id": "a", "tokens": TEXT[4:5], "position": 4}]))
        call.cancel()
        session = await resume(b.stub, "a", received_position=4)

        await check_goes_on(b.stub, "a", session.position)

    async def test_a_higher_epoch_is_not_served_from_what_was_left(self, pair: Pair) -> None:
        """On a stream as in a call: the server that lost the session takes it from the store."""
        a, b = pair
        await open_at(a.stub, 4, SYNC)
        await step(b.stub, "a", TEXT[4:5], position=4)
        call = a.stub.Stream()
        chunk = step_pb2.Chunk(session_id="a", tokens=TEXT[5:6], position=5, epoch=2)
        await call.write(step_pb2.StreamRequest(chunks=[chunk]))
        await call.done_writing()
        responses: list[step_pb2.StreamResponse] = []
        await read_all(call, responses)
        (result,) = [result for response in responses for result in response.results]

        assert (result.error.code, result.position, result.epoch) == (0, 6, 3)

    async def test_the_stream_hears_that_a_session_has_moved(self, pair: Pair) -> None:
        """When its server learns of it; the next chunk takes the session back."""
        a, b = pair
        await open_at(a.stub, 4, SYNC)
        call = a.stub.Stream()
        await call.write(step_pb2.StreamRequest(chunks=[{"session_id": "a", "tokens": TEXT[4:5], "position": 4}]))
        await call.read()
        await resume(b.stub, "a")
        await call.write(step_pb2.StreamRequest(chunks=[{"session_id": "a", "tokens": TEXT[5:6], "position": 5}]))
        response = await call.read()
        (result,), (end,) = response.results, response.ended
        assert result.error.code == grpc.StatusCode.UNAVAILABLE.value[0]
        assert (end.session_id, end.reason) == ("a", session_pb2.END_REASON_MOVED)
        await call.write(step_pb2.StreamRequest(chunks=[{"session_id": "a", "tokens": TEXT[5:6], "position": 5}]))
        (again,) = (await call.read()).results
        call.cancel()

        assert (again.error.code, again.position, again.epoch) == (0, 6, 3)


class TestModels:
    async def test_another_model_is_refused(self, pair: Pair, join: Join, tmp_path: Path) -> None:
        """Both fingerprints are told, and the session stays with the server that has it."""
        a, _ = pair
        save_model(tmp_path / "others" / "tiny" / "1", make_model(seed=9)[0])
        other = await join(models=tmp_path / "others")
        await open_at(a.stub, 4, SYNC)
        await open_session(a.stub, "f", "frames")
        failure = await failure_of(resume(other.stub, "a"))
        unloaded = await failure_of(resume(other.stub, "f"))
        prints = [peer.server.engines.of_model("tiny").fingerprint for peer in (a, other)]

        assert failure.code is unloaded.code is FAILED_PRECONDITION
        assert all(each in failure.message for each in prints)
        assert "model frames version 3 is not loaded here" in unloaded.message
        assert (await step(a.stub, "a", TEXT[4:5], position=4)).epoch == 1

    async def test_each_model_has_its_own(self, pair: Pair) -> None:
        """Sessions of several models are taken up by the engines that they are of."""
        a, b = pair
        await open_at(a.stub, 4, SYNC)
        await open_session(a.stub, "f", "frames", durability=SYNC)

        assert [(await resume(b.stub, name)).model_name for name in "af"] == ["tiny", "frames"]


class TestDamage:
    async def test_the_newest_sound_checkpoint_is_taken(self, pair: Pair, tmp_path: Path) -> None:
        """A damaged one is passed over, and gone with the next."""
        a, b = pair
        await open_at(a.stub, 3, SYNC)
        store = SqliteStore(tmp_path / "state" / "sessions.db")
        await store.save([save_of("a", 7, checkpoint=b"nonsense", oldest=3)], must_replicate=False)
        session = await resume(b.stub, "a")
        assert session.position == 3
        await stored_at(b.stub, "a", 3)
        while max((await record_of(store, "a")).checkpoints) > 3:
            await asyncio.sleep(0.005)
        await check_goes_on(b.stub, "a", 3)
        await store.stop()

    async def test_a_session_without_a_sound_one_is_told(self, pair: Pair, tmp_path: Path) -> None:
        """FAILED_PRECONDITION says what is wrong."""
        a, b = pair
        await open_at(a.stub, 3, SYNC)
        store = SqliteStore(tmp_path / "state" / "sessions.db")
        sound = await record_of(store, "a")
        cut = sound.checkpoints[3][:-5]
        await store.save([save_of("a", 3, checkpoint=cut, oldest=3, latest=3)], must_replicate=False)
        failure = await failure_of(resume(b.stub, "a"))
        await store.stop()

        assert failure.code is FAILED_PRECONDITION
        assert "the checkpoint at 3 cannot be used: its checksum is wrong" in failure.message


async def cut_off(peer: Peer, session_id: str, prompt: Sequence[int], num_read: int, **fields: Any) -> list[int]:
    """Begins a generation and loses the connection after some tokens; returns what was read, at least so many."""
    call, read = peer.stub.Generate(request(session_id, list(prompt), **fields)), list[int]()
    while len(read) < num_read:
        read += (await call.read()).tokens
    call.cancel()
    engine = peer.server.engines.of_model("tiny")
    await until(lambda: engine.stats().num_waiting == 0)
    return read


class TestGenerations:
    async def test_a_generation_takes_its_session_up(self, pair: Pair) -> None:
        """Where the checkpoint is it goes on, with its random numbers and its penalties; elsewhere it is told."""
        a, b = pair
        for name in ("a", "whole"):
            await open_session(a.stub, name, seed=7, durability=SYNC)
        sampling = generate_pb2.Sampling(repetition_penalty=1.5)
        whole = tokens_of(await generate(a.stub, "whole", TEXT[:3], 12, sampling=sampling))
        first = tokens_of(await generate(a.stub, "a", TEXT[:3], 5, sampling=sampling))
        failure = await failure_of(generate(b.stub, "a", [], 7, position=9))
        rest = await generate(b.stub, "a", [], 7, position=8, sampling=sampling)

        assert (failure.code, failure.position) == (OUT_OF_RANGE, "8")
        assert first + tokens_of(rest) == whole
        assert (rest[-1].epoch, rest[-1].position, rest[-1].HasField("durable_position")) == (2, 15, True)

    async def test_what_was_lost_is_sent_again(self, pair: Pair, join: Join) -> None:
        """A client with some of the tokens goes on from there; one with none asks once more. Both get the same text."""
        peer = pair[0]
        for name in ("whole", "some", "none"):
            await open_session(peer.stub, name, seed=7)
        sampling = generate_pb2.Sampling(repetition_penalty=4, repetition_window=4)
        whole = tokens_of(await generate(peer.stub, "whole", TEXT[:3], 300, sampling=sampling))
        read = await cut_off(peer, "some", TEXT[:3], 5, max_tokens=300, sampling=sampling)
        got = len(read)
        rest = await generate(peer.stub, "some", [], 300 - got, position=3 + got, sampling=sampling)
        await cut_off(peer, "none", TEXT[:3], 5, max_tokens=300, position=0, sampling=sampling)
        again = await generate(peer.stub, "none", TEXT[:3], 300, position=0, sampling=sampling)

        assert read + tokens_of(rest) == tokens_of(again) == whole
        for responses in (rest, again):
            assert responses[-1].position == 303
            assert responses[-1].finish_reason == generate_pb2.FINISH_REASON_LENGTH
            assert not any(response.finish_reason for response in responses[:-1])

    async def test_a_finished_generation_is_sent_again(self, pair: Pair) -> None:
        """All of it, or its end, without a step being run; with more tokens asked for than there were, it goes on."""
        stub = pair[0].stub
        for name in ("a", "whole"):
            await open_session(stub, name, seed=7)
        whole = await generate(stub, "whole", TEXT[:3], 10, top_k_log_probabilities=2)
        first = await generate(stub, "a", TEXT[:3], 6, top_k_log_probabilities=2, position=0)
        again = await generate(stub, "a", TEXT[:3], 6, top_k_log_probabilities=2, position=0)
        fewer = await generate(stub, "a", [], 2, top_k_log_probabilities=2, position=5)
        assert (await get(stub, "a")).position == 9
        more = await generate(stub, "a", [], 5, top_k_log_probabilities=2, position=8)
        texts = [tokens_of(responses) for responses in (whole, first, again, fewer, more)]

        assert texts[1] == texts[2] == texts[0][:6]
        assert texts[3] == texts[0][2:4]
        assert texts[4] == texts[0][5:]
        assert [each for response in again for each in response.alternatives] == [
            each for response in first for each in response.alternatives
        ]
        assert [response[-1].finish_reason for response in (again, fewer, more)] == [1, 1, 1]
        assert (fewer[-1].position, more[-1].position) == (7, 13)

    async def test_what_was_drawn_counts_once(self, pair: Pair) -> None:
        """Penalties look at the tokens of a generation that is asked again as if it had never been cut."""
        stub = pair[0].stub
        sampling = generate_pb2.Sampling(repetition_penalty=4, repetition_window=4)
        for name in ("whole", "a"):
            await open_session(stub, name, seed=7)
        whole = tokens_of(await generate(stub, "whole", TEXT[:3], 20, sampling=sampling))
        for count in (1, 4, 20):
            part = tokens_of(await generate(stub, "a", TEXT[:3], count, position=0, sampling=sampling))
            assert part == whole[:count]

    async def test_a_stop_sequence_counts_over_the_seam(self, pair: Pair) -> None:
        """It may begin in what the client has read, and end in what it is sent again or in what is drawn then."""
        stub = pair[0].stub
        await open_session(stub, "whole", seed=7)
        text = tokens_of(await generate(stub, "whole", [1], 12))
        stop = {"tokens": text[3:6]}
        for name, num_drawn in (("drawn", 8), ("half", 5)):
            await open_session(stub, name, seed=7)
            await generate(stub, name, [1], num_drawn)
            rest = await generate(stub, name, [], 8, position=5, stop_sequences=[stop])
            assert tokens_of(rest) == text[4:6]
            assert rest[-1].finish_reason == generate_pb2.FINISH_REASON_STOP

    async def test_tokens_of_an_earlier_call_count_for_stop_sequences(self, pair: Pair) -> None:
        """A client that sends again what had been generated says how much of it was."""
        stub = pair[0].stub
        for name in ("whole", "plain", "resent"):
            await open_session(stub, name, seed=7)
        text = tokens_of(await generate(stub, "whole", [1], 12))
        stop = {"tokens": text[3:6]}
        resent = [1, *text[:5]]
        rest = await generate(stub, "resent", resent, 7, stop_sequences=[stop], num_generated=5)
        short = await generate(stub, "plain", resent, 1, stop_sequences=[stop], num_generated=2)

        assert tokens_of(rest) == tokens_of(short) == text[5:6]
        assert rest[-1].finish_reason == short[-1].finish_reason == generate_pb2.FINISH_REASON_STOP
        failure = await failure_of(generate(stub, "resent", resent, 7, num_generated=-1))
        assert (failure.code, failure.field) == (grpc.StatusCode.INVALID_ARGUMENT, "num_generated")

    async def test_another_request_is_not_the_same(self, pair: Pair) -> None:
        """Other tokens, another seed, another way of drawing: the session is elsewhere by now."""
        stub = pair[0].stub
        await open_session(stub, "a", seed=7)
        await generate(stub, "a", [1, 2], 5, position=0)
        for tokens, fields in (([1, 3], {}), ([1, 2], {"seed": 8}), ([1, 2], {"sampling": GREEDY})):
            failure = await failure_of(generate(stub, "a", tokens, 5, position=0, **fields))
            assert (failure.code, failure.position) == (OUT_OF_RANGE, "7")

    async def test_the_next_request_forgets_them(self, pair: Pair) -> None:
        """A client that steps on has read all that it wanted."""
        stub = pair[0].stub
        await open_session(stub, "a")
        await generate(stub, "a", [1, 2], 5, position=0)
        await step(stub, "a", [1], position=7)
        failure = await failure_of(generate(stub, "a", [1, 2], 5, position=0))

        assert (failure.code, failure.position) == (OUT_OF_RANGE, "8")

    async def test_a_sync_generation_is_read_again_elsewhere(self, pair: Pair) -> None:
        """What was read is in the store: another server goes on with the same text."""
        a, b = pair
        for name in ("a", "whole"):
            await open_session(a.stub, name, seed=7, durability=SYNC)
        whole = tokens_of(await generate(a.stub, "whole", [1, 2], 30))
        read = await cut_off(a, "a", [1, 2], 3, max_tokens=30, position=0)
        session = await resume(b.stub, "a", received_position=2 + len(read))
        resent = [1, 2, *read][session.position :]
        rest = await generate(
            b.stub,
            "a",
            resent,
            30 - len(read),
            position=session.position,
            num_generated=min(len(read), len(resent)),
        )

        assert session.position <= 2 + len(read)
        assert read + tokens_of(rest) == whole


async def test_a_close_that_comes_late_ends_nothing(pair: Pair) -> None:
    """Of an epoch before the session's it is ABORTED, with the epoch that ends it."""
    first, second = pair
    await open_at(first.stub, 4)
    await resume(second.stub, "a", received_position=4)
    close = second.stub.CloseSession

    failure = await failure_of(close(session_pb2.CloseSessionRequest(session_id="a", epoch=1)))
    assert failure.code is ABORTED
    assert failure.epoch == "2"
    await check_goes_on(second.stub, "a", 4)
    assert (await close(session_pb2.CloseSessionRequest(session_id="a", epoch=2))).position == len(TEXT)

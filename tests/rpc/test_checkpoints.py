"""State that leaves the server as sealed bytes and comes back: export, import, and steps that leave nothing behind."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration

from conveyor.v1 import generate_pb2, session_pb2, step_pb2
from tests.models import make_context_model, make_model, save_model
from tests.rpc.conftest import Peer
from tests.rpc.requests import failure_of, get, logits, open_session, step, to_array, to_tensor
from tests.rpc.test_durability import NONE, SYNC
from tests.rpc.test_generation import generate, tokens_of

Pair = tuple[Peer, Peer]
Join = Callable[..., Awaitable[Peer]]
TEXT = [3, 1, 4, 1, 5, 9, 2, 6]
INVALID, FAILED_PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION


async def export(stub: Any, session_id: str, **fields: Any) -> bytes:
    """The session's sealed state."""
    request = session_pb2.ExportSessionRequest(session_id=session_id, **fields)
    checkpoint: bytes = (await stub.ExportSession(request)).checkpoint
    return checkpoint


async def import_(stub: Any, checkpoint: bytes, **fields: Any) -> session_pb2.Session:
    """Opens a session from sealed state."""
    return (await stub.ImportSession(session_pb2.ImportSessionRequest(checkpoint=checkpoint, **fields))).session


async def stateless(stub: Any, tokens: list[int], checkpoint: bytes = b"", **fields: Any) -> Any:
    """One step that leaves nothing: from the checkpoint, or from the beginning."""
    opening = fields.pop("open", {"model_name": "tiny", "seed": 7})
    start: dict[str, Any] = {"checkpoint": checkpoint} if checkpoint else {"open": opening}
    chunk = step_pb2.Chunk(tokens=tokens, **fields)
    return await stub.StepStateless(step_pb2.StepStatelessRequest(chunk=chunk, **start))


async def num_sessions(peer: Peer) -> int:
    """Those that the server holds."""
    listing: session_pb2.ListSessionsResponse = await peer.stub.ListSessions(session_pb2.ListSessionsRequest())
    return listing.total_size


async def whole_text(stub: Any) -> np.ndarray:
    """Logits of one session alone."""
    session = await open_session(stub, durability=NONE)
    return to_array((await step(stub, session, TEXT, outputs=logits())).outputs["logits"])


class TestExportAndImport:
    async def test_a_session_goes_on_anywhere(self, pair: Pair) -> None:
        """By any server of the same key; the exported one stays open, and the two share nothing."""
        a, b = pair
        await open_session(a.stub, "a", seed=7, durability=NONE)
        await step(a.stub, "a", TEXT[:5])
        checkpoint = await export(a.stub, "a", position=5)
        await step(a.stub, "a", [7, 7])
        session = await import_(b.stub, checkpoint, session_id="b")
        result = await step(b.stub, "b", TEXT[5:], position=5, outputs=logits())

        assert (session.session_id, session.position, session.seed, session.model_name) == ("b", 5, 7, "tiny")
        np.testing.assert_allclose(
            to_array(result.outputs["logits"]), (await whole_text(a.stub))[5:], atol=1e-4, rtol=1e-4
        )
        assert (await get(a.stub, "a")).position == 7

    async def test_the_position_is_told(self, pair: Pair) -> None:
        """Beside the bytes."""
        stub = pair[0].stub
        await open_session(stub, "a")
        await step(stub, "a", TEXT[:5])
        response = await stub.ExportSession(session_pb2.ExportSessionRequest(session_id="a"))

        assert response.position == 5

    async def test_times_and_durability_are_asked_for_anew(self, pair: Pair) -> None:
        """As when a session is opened, whatever the exported one had."""
        a, b = pair
        await open_session(a.stub, "a", durability=SYNC, idle_timeout=Duration(seconds=50))
        checkpoint = await export(a.stub, "a")
        plain = await import_(b.stub, checkpoint)
        asked = await import_(
            b.stub,
            checkpoint,
            durability=SYNC,
            idle_timeout=Duration(seconds=20),
            max_lifetime=Duration(seconds=10),
            seed=3,
        )

        assert plain.durability.mode == session_pb2.DURABILITY_MODE_ASYNC
        assert plain.expire_time.seconds - plain.create_time.seconds == 600
        assert (asked.durability, asked.epoch, asked.durable_position, asked.seed) == (SYNC, 1, 0, 3)
        assert asked.expire_time.seconds - asked.create_time.seconds == 10

    async def test_a_generation_goes_on(self, pair: Pair) -> None:
        """With its random numbers, its last token, and what penalties look at."""
        a, b = pair
        for name in ("a", "whole"):
            await open_session(a.stub, name, seed=7)
        sampling = generate_pb2.Sampling(repetition_penalty=1.5)
        whole = tokens_of(await generate(a.stub, "whole", TEXT[:3], 12, sampling=sampling))
        first = tokens_of(await generate(a.stub, "a", TEXT[:3], 5, sampling=sampling))
        await import_(b.stub, await export(a.stub, "a"), session_id="b")
        rest = tokens_of(await generate(b.stub, "b", [], 7, sampling=sampling))

        assert first + rest == whole

    async def test_a_stored_session_can_be_exported(self, pair: Pair) -> None:
        """Any server takes it up for that."""
        a, b = pair
        await open_session(a.stub, "a", durability=SYNC)
        await step(a.stub, "a", TEXT[:5])
        checkpoint = await export(b.stub, "a")

        assert (await import_(a.stub, checkpoint)).position == 5
        assert (await get(b.stub, "a")).epoch == 2

    async def test_what_cannot_be_exported(self, pair: Pair) -> None:
        """An unknown session, and one that is elsewhere."""
        stub = pair[0].stub
        await open_session(stub, "a")
        await step(stub, "a", TEXT[:5])
        elsewhere = await failure_of(export(stub, "a", position=4))

        assert (await failure_of(export(stub, "nobody"))).code is grpc.StatusCode.NOT_FOUND
        assert (elsewhere.code, elsewhere.position) == (grpc.StatusCode.OUT_OF_RANGE, "5")

    async def test_an_id_in_use_is_refused(self, pair: Pair) -> None:
        """Here and in the store, as for OpenSession."""
        a, b = pair
        await open_session(a.stub, "a")
        checkpoint = await export(a.stub, "a")
        for stub in (a.stub, b.stub):
            assert (await failure_of(import_(stub, checkpoint, session_id="a"))).code is grpc.StatusCode.ALREADY_EXISTS
        failure = await failure_of(import_(b.stub, checkpoint, session_id="with space"))
        assert (failure.code, failure.field) == (INVALID, "session_id")

    async def test_a_full_server_takes_none(self, join: Join) -> None:
        """RESOURCE_EXHAUSTED, for stateless steps too."""
        stub = (await join(max_sessions=1)).stub
        await open_session(stub, "a")
        checkpoint = await export(stub, "a")
        for call in (import_(stub, checkpoint), stateless(stub, [1], checkpoint), stateless(stub, [1])):
            assert (await failure_of(call)).code is grpc.StatusCode.RESOURCE_EXHAUSTED

    async def test_without_a_store(self, stub: Any) -> None:
        """Export and import need none; to store what is imported does."""
        await open_session(stub, "a")
        await step(stub, "a", TEXT[:5])
        checkpoint = await export(stub, "a")

        assert (await import_(stub, checkpoint)).position == 5
        assert (await failure_of(import_(stub, checkpoint, durability=SYNC))).code is FAILED_PRECONDITION


class TestRefusals:
    @pytest.mark.parametrize("ask", [import_, lambda stub, checkpoint: stateless(stub, [1], checkpoint)])
    async def test_bytes_that_are_no_checkpoint_are_refused(self, pair: Pair, ask: Any) -> None:
        """INVALID_ARGUMENT for what is none, FAILED_PRECONDITION for what was one before it was changed or cut."""
        peer = pair[0]
        await open_session(peer.stub, "a")
        await step(peer.stub, "a", TEXT[:5])
        checkpoint = await export(peer.stub, "a")
        changed = bytearray(checkpoint)
        changed[len(changed) // 2] ^= 1
        for nonsense in (b"x", b"x" * 100, checkpoint[:20]):
            failure = await failure_of(ask(peer.stub, nonsense))
            assert (failure.code, failure.field) == (INVALID, "checkpoint")
        for wrong in (bytes(changed), checkpoint[:-1], checkpoint + b"x"):
            failure = await failure_of(ask(peer.stub, wrong))
            assert failure.code is FAILED_PRECONDITION
            assert "changed, cut short, or sealed with another key" in failure.message
        assert await num_sessions(peer) == 1

    async def test_no_checkpoint_at_all_is_refused(self, pair: Pair) -> None:
        """The field is named."""
        failure = await failure_of(import_(pair[0].stub, b""))
        nothing = await failure_of(pair[0].stub.StepStateless(step_pb2.StepStatelessRequest()))

        assert (failure.code, failure.field) == (INVALID, "checkpoint")
        assert (nothing.code, nothing.field) == (INVALID, "start")

    async def test_another_key_is_refused(self, pair: Pair, join: Join) -> None:
        """A server of another key takes nothing of this one, and the other way round."""
        a, other = pair[0], await join(seal_key="another")
        for one, two in ((a, other), (other, a)):
            name = await open_session(one.stub)
            failure = await failure_of(import_(two.stub, await export(one.stub, name)))
            assert failure.code is FAILED_PRECONDITION
            assert "sealed with another key" in failure.message

    async def test_another_model_is_refused(self, pair: Pair, join: Join, tmp_path: Path) -> None:
        """Both fingerprints are in the message."""
        a = pair[0]
        save_model(tmp_path / "others" / "tiny" / "1", make_model(seed=9)[0])
        other = await join(models=tmp_path / "others")
        await open_session(a.stub, "a")
        await open_session(a.stub, "f", "frames")
        failure = await failure_of(import_(other.stub, await export(a.stub, "a")))
        unloaded = await failure_of(import_(other.stub, await export(a.stub, "f")))
        prints = [peer.server.engines.of_model("tiny").fingerprint for peer in (a, other)]

        assert failure.code is unloaded.code is FAILED_PRECONDITION
        assert all(each in failure.message for each in prints)
        assert "model frames version 3 is not loaded here" in unloaded.message


class TestStateless:
    async def test_steps_from_server_to_server(self, pair: Pair) -> None:
        """Each goes on from what the one before gave, gives what one session gives, and leaves nothing."""
        a, b = pair
        checkpoint, got = b"", []
        for place, peer in ((0, a), (3, b), (6, a)):
            response = await stateless(
                peer.stub, TEXT[place : place + 3], checkpoint, position=place, request_id=9, outputs=logits()
            )
            checkpoint = response.checkpoint
            got.append(to_array(response.result.outputs["logits"]))
            assert (response.result.session_id, response.result.request_id) == ("", 9)
            assert response.result.position == min(place + 3, len(TEXT))
            assert (response.result.epoch, response.result.HasField("durable_position")) == (0, False)
            assert await num_sessions(peer) == 0
        stored = await a.stub.ListSessions(session_pb2.ListSessionsRequest(stored=True))

        np.testing.assert_allclose(np.concatenate(got), await whole_text(a.stub), atol=1e-4, rtol=1e-4)
        assert list(stored.sessions) == []

    async def test_the_same_step_again(self, pair: Pair) -> None:
        """A retry is the same request: it gives the same, bit by bit."""
        first = await stateless(pair[0].stub, TEXT[:5])
        results = [await stateless(peer.stub, TEXT[5:], first.checkpoint, outputs=logits()) for peer in pair]

        assert results[0].result == results[1].result

    async def test_a_refused_step_leaves_nothing(self, pair: Pair) -> None:
        """Its code is that of Step, or of OpenSession."""
        peer = pair[0]
        first = await stateless(peer.stub, TEXT[:5])
        elsewhere = await failure_of(stateless(peer.stub, [1], first.checkpoint, position=4))
        malformed = await failure_of(stateless(peer.stub, [99], first.checkpoint))
        unknown = await failure_of(stateless(peer.stub, [1], open={"model_name": "nobody"}))

        assert (elsewhere.code, elsewhere.position) == (grpc.StatusCode.OUT_OF_RANGE, "5")
        assert (malformed.code, malformed.field) == (INVALID, "tokens[0]")
        assert unknown.code is grpc.StatusCode.NOT_FOUND
        assert await num_sessions(peer) == 0

    async def test_a_checkpoint_is_for_both(self, pair: Pair) -> None:
        """What a step gave may be imported, and what was exported stepped."""
        a, b = pair
        response = await stateless(a.stub, TEXT[:5])
        await import_(b.stub, response.checkpoint, session_id="b")
        await step(b.stub, "b", TEXT[5:6])
        response = await stateless(a.stub, TEXT[6:], await export(b.stub, "b"), outputs=logits())

        np.testing.assert_allclose(
            to_array(response.result.outputs["logits"]), (await whole_text(a.stub))[6:], atol=1e-4, rtol=1e-4
        )

    async def test_contexts_are_in_it(self, join: Join, tmp_path: Path) -> None:
        """A picture is given once, at the beginning, and goes with the bytes from server to server."""
        save_model(tmp_path / "contexts" / "pictures" / "1", make_context_model()[0])
        a, b = [await join(models=tmp_path / "contexts") for _ in range(2)]
        contexts = {"picture": to_tensor(np.array([0.5, -1, 2], np.float32))}
        opening = session_pb2.OpenSessionRequest(seed=7, contexts=contexts)
        await open_session(a.stub, "whole", "pictures", seed=7, contexts=contexts)
        await open_session(a.stub, "fresh", "pictures", seed=7, contexts=contexts)
        whole = to_array((await step(a.stub, "whole", TEXT, outputs=logits())).outputs["logits"])
        first = await stateless(a.stub, TEXT[:5], open=opening)
        rest = await stateless(b.stub, TEXT[5:], first.checkpoint, outputs=logits())
        fresh = await stateless(b.stub, TEXT, await export(a.stub, "fresh"), outputs=logits())
        missing = await failure_of(stateless(a.stub, TEXT, open={}))

        np.testing.assert_allclose(to_array(rest.result.outputs["logits"]), whole[5:], atol=1e-4)
        np.testing.assert_allclose(to_array(fresh.result.outputs["logits"]), whole, atol=1e-4)
        assert (missing.code, missing.field) == (INVALID, "contexts[picture]")

    async def test_frames_are_stepped_too(self, pair: Pair) -> None:
        """A model of tensors, which is told by the checkpoint."""
        peer = pair[0]
        frames = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
        session = await open_session(peer.stub, model="frames")
        chunk = step_pb2.Chunk(session_id=session, inputs={"features": to_tensor(frames)}, outputs=logits("y"))
        whole = to_array((await peer.stub.Step(step_pb2.StepRequest(chunk=chunk))).result.outputs["y"])
        parts, start = [], {"open": {"model_name": "frames"}}
        for half in (frames[:2], frames[2:]):
            chunk = step_pb2.Chunk(inputs={"features": to_tensor(half)}, outputs=logits("y"))
            response = await peer.stub.StepStateless(step_pb2.StepStatelessRequest(chunk=chunk, **start))
            start = {"checkpoint": response.checkpoint}
            parts.append(to_array(response.result.outputs["y"]))

        np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-4)

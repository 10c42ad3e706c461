"""Forks, exports, imports, and steps without a session."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conveyor.client import (
    AlreadyExists,
    Client,
    Durability,
    FailedPrecondition,
    InvalidArgument,
    SessionEnded,
    connect,
)
from tests.client.cluster import Cluster
from tests.client.serving import SYMBOLS, ServerProcess, serving
from tests.client.test_resume import NEVER, drawn
from tests.client.test_stream import is_close, logits_of

STEP_BYTES = 4 * len(SYMBOLS)


@pytest.fixture
async def cluster(models: Path, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with Cluster(models, tmp_path) as cluster:
        yield cluster


async def test_a_fork_shares_nothing(client: Client) -> None:
    """Both go on from the same state and the same seed, and neither notices the other."""
    async with client.open("letters", seed=5) as session:
        await session.step("abc")
        async with session.fork() as fork:
            first = [token.token for token in await drawn(session, "d", max_tokens=20)]
            second = [token.token for token in await drawn(fork, "d", max_tokens=20)]

        assert first == second
        assert fork.position == session.position == 24
        assert (await session.step("e")).position == 25
        with pytest.raises(SessionEnded):
            await fork.step("e")


async def test_a_fork_may_have_a_seed_of_its_own(client: Client) -> None:
    """With other random numbers a fork writes another text."""
    async with client.open("letters", seed=5) as session:
        await session.step("abc")
        async with session.fork(seed=6) as fork:
            first = [token.token for token in await drawn(session, "d", max_tokens=20)]
            second = [token.token for token in await drawn(fork, "d", max_tokens=20)]

    assert first != second


async def test_a_fork_of_an_id_in_use_is_refused(client: Client) -> None:
    """A caller's own id can be open only once; a fork that is refused leaves its session alone."""
    async with client.open("letters", session_id="taken") as session:
        with pytest.raises(AlreadyExists):
            await session.fork("taken")
        assert (await session.step("a")).position == 1


async def test_a_fork_is_where_a_generation_was_left(client: Client) -> None:
    """Where the client does not know how far the server came, a fork is wherever it is."""
    async with client.open("letters") as session:
        generation = session.generate("abc", max_tokens=4000)
        await anext(generation)
        await generation.aclose()
        async with session.fork() as fork:
            assert fork.position >= 4
            assert (await fork.step("d")).position == fork.position


@pytest.mark.parametrize("copying", ["fork", "export"])
async def test_a_copy_is_of_what_was_answered(cluster: Cluster, copying: str) -> None:
    """A session whose server was lost is led back to where its client is before it is copied."""
    async with connect(cluster.address) as client:
        session = await client.open("letters", durability=NEVER)
        await session.step("abc")
        cluster.fail_over(1)
        copy = await (session.fork() if copying == "fork" else client.import_session(await session.export()))

        assert copy.position == 3
        assert session.replayed_steps == 3
        result = await copy.step("d", outputs=["logits"])
        assert is_close(result["logits"].data, (await logits_of(client, "abcd"))[-STEP_BYTES:])


async def test_an_export_can_be_opened_elsewhere(client: Client, models: Path, server: ServerProcess) -> None:
    """Servers of one key take each other's exports, seed included, as often as one likes."""
    with serving(models, "--seal-key", "secret") as first, serving(models, "--seal-key", "secret") as second:
        async with connect(first.address) as here, connect(second.address) as there:
            session = await here.open("letters", seed=5)
            await session.step("abc")
            checkpoint = await session.export()
            expected = [token.token for token in await drawn(session, "d", max_tokens=20)]
            for _ in range(2):
                async with there.import_session(checkpoint) as copy:
                    assert copy.position == 3
                    assert [token.token for token in await drawn(copy, "d", max_tokens=20)] == expected
        with pytest.raises(FailedPrecondition, match="checkpoint"):
            await client.import_session(checkpoint)


async def test_a_changed_export_is_refused(client: Client) -> None:
    """Whatever byte of it is changed, and whatever else is given in its place."""
    async with client.open("letters") as session:
        await session.step("abc")
        checkpoint = await session.export()
        changed = bytearray(checkpoint)
        changed[len(changed) // 2] ^= 1

        with pytest.raises(FailedPrecondition):
            await client.import_session(bytes(changed))
        with pytest.raises(InvalidArgument) as refusal:
            await client.import_session(b"nothing of the kind")
        assert refusal.value.field == "checkpoint"


async def test_a_chain_of_stateless_steps_is_a_session(client: Client) -> None:
    """The client carries the state from step to step, and nothing is left on the server."""
    expected = (await logits_of(client, "abcdef"))[-3 * STEP_BYTES :]
    result, checkpoint = await client.step_stateless("abc", "letters")
    assert result.position == 3
    result, _ = await client.step_stateless("def", "letters", checkpoint=checkpoint, outputs=["logits"])

    assert result.position == 6
    assert is_close(result["logits"].data, expected)
    assert await client.sessions() == []


async def test_a_stateless_step_takes_what_a_session_takes(client: Client) -> None:
    """Arrays, top tokens and the last step alone are as in a session."""
    frames = np.ones((4, 3), np.float32)
    result, _ = await client.step_stateless(frames, "frames", outputs=["y"], last_only=True)
    assert result["y"].shape == (1, 5)

    result, _ = await client.step_stateless("ab", "letters", top_k=2)
    assert [len(tops) for tops in result.top_tokens] == [2, 2]


async def test_a_session_can_go_on_from_a_stateless_step(client: Client) -> None:
    """The state that a stateless step gave opens a session."""
    _, checkpoint = await client.step_stateless("abc", "letters")
    async with client.import_session(checkpoint, durability="none") as session:
        result = await session.step("d", outputs=["logits"])

    assert result.position == 4
    assert is_close(result["logits"].data, (await logits_of(client, "abcd"))[-STEP_BYTES:])


@pytest.mark.parametrize(
    ("durability", "field"),
    [
        ("forever", "durability.mode"),
        (Durability("async", every_steps=2**40), "durability.every_steps"),
        (Durability("async", every_steps=-1), "durability.every_steps"),
        (Durability("async", every=0), "durability.every"),
    ],
)
async def test_a_durability_that_cannot_be_names_its_field(client: Client, durability: Any, field: str) -> None:
    """What no session can have is refused by its name."""
    with pytest.raises(InvalidArgument) as refusal:
        await client.open("letters", durability=durability)
    assert refusal.value.field == field


async def test_a_session_tells_how_it_is_stored(client: Client) -> None:
    """What was granted, what is stored and who has owned it are in a session's description."""
    async with client.open("letters", durability=Durability("async", every_steps=5, every=0.5)) as session:
        told = await session.refresh()
        assert (told.durability, told.durable_position, told.epoch) == (Durability("async", 5, 0.5), 0, 1)
    async with client.open("letters", durability="sync") as session:
        await session.step("abc")
        told = await session.refresh()
        assert (told.durability.mode, told.durable_position, told.epoch) == ("sync", 3, 1)
    async with client.open("letters", durability="none") as session:
        told = await session.refresh()
        assert (told.durability, told.durable_position, told.epoch) == (Durability(), None, 0)


async def test_durability_needs_a_store(models: Path) -> None:
    """A server without a store says that it has none."""
    with serving(models, "--store", "none") as server:
        async with connect(server.address) as client:
            with pytest.raises(FailedPrecondition, match="store"):
                await client.open("letters", durability="sync")

"""Sessions of a server whose store does not answer for a while."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from conveyor.client import Client, StepTimeout, connect
from tests.client.cluster import Cluster
from tests.client.test_resume import drawn
from tests.client.test_stream import is_close, logits_of
from tests.store.servers import ValkeyProcess, running_valkey


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyProcess]:
    with running_valkey(tmp_path) as process:
        yield process


@pytest.fixture
async def client(models: Path, tmp_path: Path, valkey: ValkeyProcess) -> AsyncIterator[Client]:
    async with (
        Cluster(models, tmp_path, num_servers=1, store=valkey.url, drain_timeout=0.1) as cluster,
        connect(cluster.address) as client,
    ):
        yield client


async def test_a_step_waits_for_the_store(client: Client, valkey: ValkeyProcess) -> None:
    """A step that ran and could not be stored is asked for until it could, and happens once."""
    session = await client.open("letters", durability="sync")
    first = await session.step("abc", outputs=["logits"])
    valkey.pause()
    step = asyncio.ensure_future(session.step("def", outputs=["logits"]))
    await asyncio.sleep(1.5)  # longer than a server waits for Valkey
    assert not step.done()
    valkey.resume()
    second = await step

    assert second.position == 6
    assert is_close(first["logits"].data + second["logits"].data, await logits_of(client, "abcdef"))


async def test_a_text_waits_for_the_store(client: Client, valkey: ValkeyProcess) -> None:
    """A generation that stops because nothing can be stored goes on with the same characters."""
    async with client.open("letters", seed=5, durability="none") as whole:
        expected = [token.token for token in await drawn(whole, "abc", max_tokens=30)]
    session = await client.open("letters", seed=5, durability="sync")
    tokens: list[int] = []
    async for token in session.generate("abc", max_tokens=30):
        tokens.append(token.token)
        if len(tokens) == 10:
            valkey.pause()
            asyncio.get_running_loop().call_later(1.5, valkey.resume)

    assert tokens == expected


async def test_a_step_that_is_not_stored_in_time_may_be_taken(client: Client, valkey: ValkeyProcess) -> None:
    """When the call's time is up first, it says so, and the same step once more is that one."""
    session = await client.open("letters", durability="sync")
    await session.step("abc")
    valkey.pause()
    with pytest.raises(StepTimeout):
        await session.step("d", timeout=0.3)
    valkey.resume()

    assert (await session.step("d")).position == 4

"""Server processes that are killed, or stopped in the middle of their work, under a client that is at work."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from conveyor.client import Durability, Session, connect
from tests.client.balancer import Balancer
from tests.client.serving import ServerProcess, serving
from tests.client.test_resume import drawn, read
from tests.client.test_stream import is_close, logits_of, progressed
from tests.store.servers import running_valkey

TEXT = "abcdefghijklmnopqrs" * 12
NUM_SESSIONS = 8

Processes = tuple[ServerProcess, ServerProcess]


@pytest.fixture
async def processes(models: Path, tmp_path: Path) -> AsyncIterator[Processes]:
    """Two servers on one SQLite file."""
    flags = ("--state-dir", str(tmp_path))
    with serving(models, *flags) as first, serving(models, *flags) as second:
        yield first, second


@pytest.fixture
async def processes_on_valkey(models: Path, tmp_path: Path) -> AsyncIterator[Processes]:
    """Two servers on one Valkey: one that is stopped in the middle of a write has no lock with it."""
    with running_valkey(tmp_path) as valkey:
        flags = ("--store", valkey.url)
        with serving(models, *flags) as first, serving(models, *flags) as second:
            yield first, second


async def write(session: Session) -> list[int]:
    """Two texts, one after the other."""
    first, second = await drawn(session, "abc", max_tokens=80), await drawn(session, "", max_tokens=80)
    return [token.token for token in first + second]


async def check(balancer: Balancer, readers: list[Session], answers: list[bytes], texts: list[list[int]]) -> None:
    """Compares with what comes of it where nothing happens."""
    async with connect(balancer.address) as client:
        expected = await logits_of(client, TEXT)
        assert all(is_close(answer, expected) for answer in answers)
        assert [session.position for session in readers] == [len(TEXT)] * NUM_SESSIONS
        for seed, text in enumerate(texts):
            async with client.open("letters", seed=seed) as session:
                assert text == await write(session)


@pytest.mark.parametrize("durability", [Durability("async", every_steps=16), "sync"])
async def test_a_killed_server_is_not_missed(processes: Processes, durability: Durability | str) -> None:
    """With `kill -9` in the middle of it, every answer comes once, in order and right, and every text is whole."""
    async with (
        Balancer([each.address for each in processes]) as balancer,
        connect(balancer.address, shards=32) as client,
    ):
        readers = [
            await client.open("letters", session_id=f"reader-{number}", durability=durability)
            for number in range(NUM_SESSIONS)
        ]
        writers = [await client.open("letters", seed=seed, durability=durability) for seed in range(4)]
        reading = asyncio.gather(*(read(session, TEXT) for session in readers))
        writing = asyncio.gather(*map(write, writers))
        await progressed(readers + writers, 500)
        assert {0, 1} == {home for homes in balancer.streams.values() for home in homes}
        processes[0].process.kill()
        balancer.homes = [1]

        await check(balancer, readers, await reading, await writing)


async def test_a_stopped_server_is_given_up(processes_on_valkey: Processes) -> None:
    """A process that stands still for a while, and then goes on where it was, spoils nothing."""
    processes = processes_on_valkey
    async with (
        Balancer([each.address for each in processes]) as balancer,
        connect(balancer.address, shards=32) as client,
    ):
        durability = Durability("async", every_steps=16)
        readers = [
            await client.open("letters", session_id=f"reader-{number}", durability=durability)
            for number in range(NUM_SESSIONS)
        ]
        writers = [await client.open("letters", seed=seed, durability=durability) for seed in range(4)]
        reading = asyncio.gather(*(read(session, TEXT[:114]) for session in readers))
        writing = asyncio.gather(*map(write, writers))
        await progressed(readers + writers, 500)
        assert {0, 1} == {home for homes in balancer.streams.values() for home in homes}
        processes[0].process.send_signal(signal.SIGSTOP)
        balancer.homes = [1]
        texts, answers = await writing, await reading
        processes[0].process.send_signal(signal.SIGCONT)
        balancer.homes = [0, 1]
        rest = await asyncio.gather(*(read(session, TEXT[114:]) for session in readers))

        await check(balancer, readers, [first + second for first, second in zip(answers, rest, strict=True)], texts)

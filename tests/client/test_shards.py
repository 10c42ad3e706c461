"""Sessions of one client on several servers behind a balancer, while servers come, go and stand still."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from conveyor.client import Client, Durability, InvalidArgument, NotFound, Unavailable, connect, connection, opening
from conveyor.client.shards import Shards
from tests.client.balancer import Balancer
from tests.client.cluster import Cluster
from tests.client.test_resume import NEVER, drawn, read
from tests.client.test_stream import is_close, logits_of

TEXT = "abcdefghijklmnopqrs" * 2
NUM_SHARDS = 16


@pytest.fixture
async def balancer(models: Path, tmp_path: Path) -> AsyncIterator[Balancer]:
    async with (
        Cluster(models, tmp_path, num_servers=3) as cluster,
        Balancer([server.address for server in cluster.servers]) as balancer,
    ):
        yield balancer


@pytest.fixture
async def client(balancer: Balancer) -> AsyncIterator[Client]:
    async with connect(balancer.address, shards=NUM_SHARDS) as client:
        yield client


def test_a_minted_id_is_of_its_shard() -> None:
    """Ids can be made for any shard, and every client of as many shards tells the same one."""
    shards = Shards(NUM_SHARDS)

    assert all(Shards(NUM_SHARDS).of(shards.mint(str(shard))) == str(shard) for shard in range(NUM_SHARDS))


def test_clients_of_one_shard_have_one_each() -> None:
    """A client with a single stream keeps all sessions together, apart from those of other clients."""
    first, second = Shards(1), Shards(1)

    assert first.of("a") == first.of("b") != second.of("a")


@pytest.mark.parametrize("num_shards", [0, -1])
def test_there_is_a_shard(num_shards: int) -> None:
    """Fewer than one shard is refused by name."""
    with pytest.raises(InvalidArgument) as refusal:
        Shards(num_shards)
    assert refusal.value.field == "shards"


async def test_sessions_spread_over_servers(balancer: Balancer, client: Client) -> None:
    """Each session is whole on one server: steps, scores, generations and forks find it without any store."""
    sessions = [await client.open("letters", durability="none") for _ in range(24)]
    await asyncio.gather(*(session.step("abc") for session in sessions))
    for session in sessions:
        await session.score("d")
        await drawn(session, "", max_tokens=2)
        async with session.fork() as fork:
            assert (await fork.step("e")).position == 7

    used = {home for homes in balancer.streams.values() for home in homes}
    assert used == {0, 1, 2}
    assert all(len(homes) == 1 for homes in balancer.streams.values())
    for session in sessions:
        await session.close()


async def test_a_stream_ends_with_its_last_session(balancer: Balancer, client: Client) -> None:
    """Streams are opened for the sessions that there are, and closed with them."""
    async with client.open("letters", session_id="a"):
        assert balancer.streams == {}
    session = await client.open("letters", session_id="a")
    for _ in range(2):
        await session.step("a")
    await session.close()
    again = await client.open("letters", session_id="a")
    await again.step("a")

    assert [len(homes) for homes in balancer.streams.values()] == [2]


async def test_sessions_that_are_opened_elsewhere_are_stepped_there(balancer: Balancer, client: Client) -> None:
    """When servers come, old sessions go on where they are, and new ones of the same shards where they were opened."""
    balancer.homes = [0]
    old = [await client.open("letters", durability="none") for _ in range(24)]
    await asyncio.gather(*(session.step("abc") for session in old))
    balancer.homes = [0, 1, 2]
    new = [await client.open("letters", durability="none") for _ in range(24)]

    for sessions, position in ((new, 1), (old, 4)):
        results = await asyncio.gather(*(session.step("d") for session in sessions))
        assert {result.position for result in results} == {position}


@pytest.mark.parametrize("use", ["step", "generate", "refresh", "export", "attach"])
async def test_what_is_not_stored_is_looked_for(balancer: Balancer, client: Client, use: str) -> None:
    """A session that only its server knows is found there, though its shard leads elsewhere since servers came."""
    balancer.homes = [0]
    sessions = [await client.open("letters", durability="none") for _ in range(12)]
    for session in sessions:
        await session.step("abc")
    balancer.homes = [0, 1, 2]

    for session in sessions:
        if use == "generate":
            assert [token.position for token in await drawn(session, "d", max_tokens=2)] == [5, 6]
        elif use == "refresh":
            assert (await session.refresh()).position == 3
        elif use == "export":
            await session.export()
        elif use == "attach":
            async with connect(balancer.address, shards=NUM_SHARDS) as other:
                assert (await other.session(session.id)).position == 3
        else:
            client._streams.leave(session._lane)  # as it does when its connection is lost
        assert (await session.step("e")).position in (4, 5, 7)


async def test_a_server_that_does_not_say_is_asked_again(
    balancer: Balancer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one of the servers is silent, that the others do not have a session tells nothing."""
    monkeypatch.setattr(opening, "_DETOUR_SECONDS", 0.05)
    shards = Shards(NUM_SHARDS)
    moved = next(name for name in map(str, range(100)) if balancer.home(shards.of(name)) != 0)
    balancer.homes = [0]
    session = await client.open("letters", session_id=moved, durability="none")
    balancer.homes = [0, 1, 2]
    balancer.pause(0)
    looking = asyncio.ensure_future(client.session(session.id))
    done, _ = await asyncio.wait([looking], timeout=0.5)
    assert not done
    balancer.go_on(0)

    assert (await (await looking).step("abc")).position == 3


async def test_what_is_nowhere_is_not_looked_for_long(balancer: Balancer, client: Client) -> None:
    """A session that has gone is told so in a moment."""
    session = await client.open("letters", durability="none")
    async with connect(balancer.address, shards=NUM_SHARDS) as other:
        await (await other.session(session.id)).close()

    with pytest.raises(NotFound):
        await session.step("a", timeout=2.0)
    with pytest.raises(NotFound):
        await drawn(session, "a", timeout=2.0)


async def test_few_are_looked_for_at_once(balancer: Balancer, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many a client has lost, or they would time out behind each other."""
    search, num_searches, most = opening._search, 0, 0

    async def counted(*arguments: Any) -> Any:
        nonlocal num_searches, most
        num_searches += 1
        most = max(most, num_searches)
        try:
            return await search(*arguments)
        finally:
            num_searches -= 1

    monkeypatch.setattr(opening, "_search", counted)
    monkeypatch.setattr(connection, "_MAX_SEARCHES", 3)
    async with connect(balancer.address, shards=NUM_SHARDS) as client:
        outcomes = await asyncio.gather(*(client.session(f"gone-{n}") for n in range(12)), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [NotFound] * 12
    assert most == 3


async def test_one_that_does_not_get_its_turn(balancer: Balancer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows whether it has gone, so it is not said."""
    monkeypatch.setattr(connection, "_MAX_SEARCHES", 0)
    async with connect(balancer.address, timeout=0.5, shards=NUM_SHARDS) as client:
        with pytest.raises(Unavailable, match="many other sessions are looked for"):
            await client.session("gone")


@pytest.mark.parametrize("durability", [Durability("async", every_steps=4), "sync"])
async def test_a_change_of_servers_shows_in_nothing(
    balancer: Balancer, client: Client, durability: Durability | str
) -> None:
    """While servers come and go, with calls of one session on two of them, all answers are right."""
    sessions = [await client.open("letters", seed=3, durability=durability) for _ in range(6)]

    async def work(number: int) -> bytes:
        answers = b""
        for homes in ([0], [0, 1, 2], [1, 2], [2]):
            balancer.homes = homes
            answers += await read(sessions[number], TEXT)
            await drawn(sessions[number], "a", max_tokens=10)
        return answers

    answers = await asyncio.gather(*map(work, range(6)))
    async with client.open("letters", seed=3) as whole:
        expected = b""
        for _ in range(4):
            expected += await read(whole, TEXT)
            await drawn(whole, "a", max_tokens=10)
    assert all(is_close(answer, expected) for answer in answers)


async def test_a_silent_server_is_given_up(balancer: Balancer, client: Client) -> None:
    """A server that stands still gives no error: its sessions go on elsewhere, and what it says later is not heard."""
    session = await client.open("letters", durability=NEVER)
    first = await session.step("abc", outputs=["logits"])
    home = balancer.streams.popitem()[1][0]
    balancer.pause(home)
    step = asyncio.ensure_future(session.step("d", outputs=["logits"]))
    balancer.homes.remove(home)
    second = await step
    balancer.go_on(home)
    balancer.homes.append(home)
    third = await session.step("e", outputs=["logits"])

    answers = b"".join(result["logits"].data for result in (first, second, third))
    assert is_close(answers, await logits_of(client, "abcde"))


async def test_a_generation_leaves_a_silent_server(balancer: Balancer, client: Client) -> None:
    """A text that stops in the middle without an error goes on elsewhere with the same characters."""
    async with client.open("letters", seed=5) as whole:
        expected = [token.token for token in await drawn(whole, "abc", max_tokens=30)]
    session = await client.open("letters", seed=5, durability=NEVER)
    home = balancer.home(session._lane.shard)
    tokens: list[int] = []
    async for token in session.generate("abc", max_tokens=30):
        tokens.append(token.token)
        if len(tokens) == 10:
            balancer.pause(home)
            balancer.homes.remove(home)

    assert tokens == expected
    balancer.go_on(home)

"""What is Valkey's own: a server that stops, restarts, is full, loading, or no primary any more; replicas; TLS."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from conveyor.store.store import Record, Saved, StoreError
from conveyor.store.valkey import ValkeyStore
from tests.store.saves import opening_of, save_of
from tests.store.servers import ValkeyProcess, make_certificate, running_valkey, tls_relay

TIMEOUT = 0.3


@pytest.fixture
async def store(valkey: ValkeyProcess) -> AsyncIterator[ValkeyStore]:
    """A store of this test's server that does not wait long."""
    store = ValkeyStore(valkey.url, timeout=TIMEOUT)
    yield store
    await store.stop()


@pytest.fixture
def replica(valkey: ValkeyProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyProcess]:
    """A second server that has caught up with the first."""
    valkey.command("CONFIG", "SET", "repl-diskless-sync-delay", "0")
    folder = tmp_path_factory.mktemp("replica")
    with running_valkey(folder, "--replicaof", "127.0.0.1", str(valkey.port)) as process:
        yield process


@pytest.fixture
async def stores(valkey: ValkeyProcess, replica: ValkeyProcess) -> AsyncIterator[tuple[ValkeyStore, ValkeyStore]]:
    """A store that waits for the replica, and one of the replica itself."""
    both = ValkeyStore(valkey.url, 1, timeout=1.0), ValkeyStore(replica.url)
    yield both
    for store in both:
        await store.stop()


async def save_until_done(store: ValkeyStore, position: int, *, must_replicate: bool = False, epoch: int = 1) -> None:
    """Saves a session once the store can again."""
    async with asyncio.timeout(10):
        while True:
            try:
                saved = await store.save([save_of(position=position, epoch=epoch)], must_replicate=must_replicate)
            except StoreError:
                await asyncio.sleep(0.01)
            else:
                assert saved == [Saved.DONE]
                return


async def test_a_server_that_does_not_answer_is_not_waited_for(valkey: ValkeyProcess, store: ValkeyStore) -> None:
    """An operation ends within its time, and later ones get their own answers when the server goes on."""
    await store.create([opening_of("a"), opening_of("b")])
    valkey.pause()
    started = asyncio.get_running_loop().time()
    with pytest.raises(StoreError, match=rf"127\.0\.0\.1:{valkey.port}: no answer within 0\.3 s"):
        await store.save([save_of("a", 10), save_of("b", 10)], must_replicate=False)
    seconds = asyncio.get_running_loop().time() - started
    valkey.resume()

    assert TIMEOUT <= seconds < 2 * TIMEOUT
    assert (await store.read("b")).head == b"head of b"
    assert await store.acquire("a") == Record("a", 2, b"head of a", (await store.read("a")).checkpoints)


async def test_what_was_given_up_is_not_sent_later(valkey: ValkeyProcess, store: ValkeyStore) -> None:
    """A save that had not left before its time was over has not happened, and does not when the server goes on."""
    await store.create([opening_of()])
    valkey.pause()
    for _ in range(2):
        with pytest.raises(StoreError, match="no answer"):
            await store.save([save_of(position=10, checkpoint=bytes(64 << 20))], must_replicate=False)
    valkey.resume()

    for _ in range(5):
        await asyncio.sleep(0.02)
        assert (await store.read("a")).checkpoints == {0: b"first"}


async def test_a_server_that_is_gone_is_found_again(valkey: ValkeyProcess, store: ValkeyStore) -> None:
    """Refused while it is down; when it is back empty, sessions are gone until a save brings their heads."""
    await store.create([opening_of()])
    valkey.kill()
    with pytest.raises(StoreError, match=r"connecting|closed"):
        await store.save([save_of()], must_replicate=False)
    with pytest.raises(StoreError, match="connecting"):
        await store.read("a")
    valkey.start()

    assert await store.save([save_of(position=20)], must_replicate=False) == [Saved.GONE]
    assert await store.save([save_of(position=20, head=b"head")], must_replicate=False) == [Saved.DONE]
    assert await store.read("a") == Record("a", 1, b"head", {20: b"state"})


async def test_a_restart_between_two_operations_is_not_noticed(valkey: ValkeyProcess, store: ValkeyStore) -> None:
    """A connection that has ended meanwhile is made anew, and scripts are brought again."""
    await asyncio.gather(*(store.create([opening_of(name)]) for name in "abcd"))
    valkey.kill()
    valkey.start()
    await asyncio.sleep(0.05)  # for the loop to see that the connections have ended

    assert await store.save([save_of("a"), save_of("b")], must_replicate=False) == [Saved.GONE, Saved.GONE]
    valkey.command("SCRIPT", "FLUSH")
    assert await store.save([save_of("a"), save_of("b")], must_replicate=False) == [Saved.GONE, Saved.GONE]


async def test_what_the_server_keeps_is_there_after_its_crash(tmp_path: Path) -> None:
    """With an append-only file that is written at each command, nothing that was acknowledged is lost."""
    with running_valkey(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as process:
        store = ValkeyStore(process.url)
        await store.create([opening_of()])
        await store.save([save_of(position=10)], must_replicate=False)
        process.kill()
        process.start()
        await save_until_done(store, 20)

        assert sorted((await store.read("a")).checkpoints) == [0, 10, 20]
        await store.stop()


async def test_a_server_that_is_loading_is_told(valkey: ValkeyProcess, store: ValkeyStore) -> None:
    """Until it has read its file it is not asked for anything; then all is there."""
    await store.create([opening_of(f"s{number}") for number in range(200)])
    await store.create([opening_of()])
    assert valkey.command("SAVE") == "+OK"
    valkey.kill()
    valkey.start("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
    await asyncio.sleep(0.05)  # for the loop to see that the connection has ended

    with pytest.raises(StoreError, match="loading"):
        await store.save([save_of()], must_replicate=False)
    await save_until_done(store, 10)
    assert sorted((await store.read("a")).checkpoints) == [0, 10]


async def test_a_full_server_refuses_and_keeps_what_it_has(valkey: ValkeyProcess, store: ValkeyStore) -> None:
    """Nothing of the refused save is there, sessions can be closed, and saves are taken when there is room."""
    await store.create([opening_of("a"), opening_of("b")])
    valkey.command("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(StoreError, match="maxmemory"):
        await store.save([save_of(position=10, oldest=10)], must_replicate=False)
    with pytest.raises(StoreError, match="maxmemory"):
        await store.create([opening_of("c")])
    await store.close([("b", 1)])
    kept = await store.read("a")
    valkey.command("CONFIG", "SET", "maxmemory", "0")

    assert kept == Record("a", 1, b"head of a", {0: b"first"})
    assert await store.save([save_of(position=10), save_of("b")], must_replicate=False) == [Saved.DONE, Saved.FENCED]


async def test_a_server_that_is_a_replica_refuses(valkey: ValkeyProcess, store: ValkeyStore) -> None:
    """Writing to what is no primary any more is an error, until it is one again."""
    await store.create([opening_of()])
    valkey.command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(StoreError, match="read only replica"):
        await store.save([save_of(position=10)], must_replicate=False)
    valkey.command("REPLICAOF", "NO", "ONE")

    assert await store.save([save_of(position=10)], must_replicate=False) == [Saved.DONE]


async def test_a_save_waits_for_replicas(replica: ValkeyProcess, stores: tuple[ValkeyStore, ValkeyStore]) -> None:
    """With one that is stopped only saves that need not replicate are acknowledged; when it is back, all are."""
    store, beside = stores
    await store.create([opening_of()])
    await save_until_done(store, 10, must_replicate=True)
    replica.pause()
    with pytest.raises(StoreError, match="0 of 1 replicas"):
        await store.save([save_of(position=20)], must_replicate=True)
    assert await store.save([save_of(position=30)], must_replicate=False) == [Saved.DONE]
    replica.resume()
    await save_until_done(store, 40, must_replicate=True)

    assert sorted((await beside.read("a")).checkpoints) == [0, 10, 20, 30, 40]


async def test_a_taking_up_outlives_a_failover(
    valkey: ValkeyProcess, replica: ValkeyProcess, stores: tuple[ValkeyStore, ValkeyStore]
) -> None:
    """No replica, no taking up: else the epoch before it would come back, and two servers have the session."""
    store, beside = stores
    await store.create([opening_of()])
    await save_until_done(store, 10, must_replicate=True)
    replica.pause()
    with pytest.raises(StoreError, match="0 of 1 replicas"):
        await store.acquire("a")
    with pytest.raises(StoreError, match="0 of 1 replicas"):
        await store.create([opening_of("b")], must_replicate=True)
    assert await store.create([opening_of("c")]) == [1]
    replica.resume()
    await save_until_done(store, 20, must_replicate=True, epoch=2)
    assert (await store.acquire("a", 2)).epoch == 3
    valkey.kill()
    replica.command("REPLICAOF", "NO", "ONE")

    assert (await beside.read("a")).epoch == 3
    assert await beside.save([save_of(position=30, epoch=2)], must_replicate=False) == [Saved.FENCED]


async def test_an_operation_that_was_given_up_does_not_answer_another(store: ValkeyStore) -> None:
    """Whenever a caller is cancelled, whoever comes after it on that connection gets the right record."""
    await store.create([opening_of("a", b"a" * 100_000), opening_of("b", b"b" * 100_000)])
    for turns in range(12):
        reading = asyncio.create_task(store.read("a"))
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)

        assert (await store.read("b")).checkpoints == {0: b"b" * 100_000}


async def test_another_database_has_other_sessions(valkey: ValkeyProcess, store: ValkeyStore) -> None:
    """The number in the URL is the server's own."""
    await store.create([opening_of()])
    other = ValkeyStore(f"{valkey.url}/3")
    try:
        assert await other.create([opening_of()]) == [1]
        assert valkey.command("DBSIZE") == ":1"
    finally:
        await other.stop()


async def test_keys_of_others_are_left_alone(valkey: ValkeyProcess, store: ValkeyStore) -> None:
    """A database may hold more than sessions."""
    valkey.command("SET", "other", "x")
    await store.create([opening_of()])

    assert [record.session_id for record in (await store.list(100))[0]] == ["a"]
    assert valkey.command("EXISTS", "conveyor:session:a") == ":1"


@pytest.mark.parametrize("cursor", ["a", "-1", str(1 << 64), "9" * 5000])
async def test_a_cursor_is_a_number(store: ValkeyStore, cursor: str) -> None:
    """Another text cannot be one that the store gave."""
    with pytest.raises(ValueError, match="cursor"):
        await store.list(10, cursor)


async def test_passwords_are_sent_and_never_told(tmp_path: Path) -> None:
    """A password may have any character if it is escaped; a wrong one is in no message."""
    with running_valkey(tmp_path, "--requirepass", "p@ss/w:rd") as process:
        address = process.url.removeprefix("valkey://")
        right, wrong, none = (
            ValkeyStore(f"valkey://{user}{address}") for user in (":p%40ss%2Fw%3Ard@", "default:s3cret@", "")
        )
        assert await right.create([opening_of()]) == [1]
        for store, reason in ((wrong, "invalid username-password"), (none, "Authentication required")):
            with pytest.raises(StoreError, match=reason) as failure:
                await store.read("a")
            assert "s3cret" not in str(failure.value)
        await asyncio.gather(right.stop(), wrong.stop(), none.stop())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
@pytest.mark.parametrize(
    ("host", "is_trusted", "reason"),
    [
        ("localhost", True, None),
        ("localhost", False, "certificate verify failed"),
        ("127.0.0.1", True, "not valid for '127.0.0.1'"),
    ],
)
async def test_tls_asks_for_a_certificate_of_that_host(
    host: str, is_trusted: bool, reason: str | None, valkey: ValkeyProcess, tmp_path: Path, monkeypatch: Any
) -> None:
    """One of an authority that the machine trusts, and for the name in the URL."""
    key, certificate = make_certificate(tmp_path, "localhost")
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with tls_relay(valkey.port, key, certificate) as port:
        store = ValkeyStore(f"valkeys://{host}:{port}")
        try:
            if reason is None:
                assert await store.create([opening_of()]) == [1]
            else:
                with pytest.raises(StoreError, match=reason):
                    await store.create([opening_of()])
        finally:
            await store.stop()

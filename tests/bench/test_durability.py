"""The benchmark of durability stores what it says, brings it back, and judges rightly."""

from pathlib import Path

import pytest
from bench.coalesced import Coalesced
from bench.durability_report import Results, make_report
from bench.measurement import Measurement
from bench.model import write_model
from bench.outage import NUM_STEPS, Outage, measure_outage
from bench.restart import POSITION, Start, fill
from bench.server import Server
from bench.stores import CASES, Case, Comparison
from deploy.local.ports import free_ports
from deploy.local.valkey import KEPT, Valkey

from conveyor.client.client import Client
from conveyor.store.opening import SQLITE_FILE
from conveyor.store.sqlite import SqliteStore
from conveyor.store.valkey import ValkeyStore
from tests.store.servers import require_valkey


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models"))


async def test_what_fills_a_store_can_be_stepped(model: Path, tmp_path: Path) -> None:
    """A server takes up every stored session where it was stored, and its state is not the initial one."""
    await fill(model, tmp_path, 3)
    with Server.conveyor(model, "--store", "sqlite", "--state-dir", str(tmp_path)) as server:
        async with Client(server.address) as client:
            stored = [await client.session(session_id) for session_id in "012"]
            positions = [session.position for session in stored]
            first = await stored[0].step([1], outputs=["logits"])
            fresh = await (await client.open()).step([1], outputs=["logits"])

    assert positions == [POSITION] * 3
    assert first.outputs["logits"] != fresh.outputs["logits"]


async def test_measured_sessions_are_stored_as_they_say(model: Path, tmp_path: Path) -> None:
    """Those of NONE are not in the store of a killed server, and those of SYNC are, at their latest step."""
    server = Server.conveyor(model, "--store", "sqlite", "--state-dir", str(tmp_path))
    for durability in ("none", "sync"):
        client = Coalesced(server.address, durability)
        await client.start()
        await client.measure(2, 0.05)
        await client.stop()
    server.kill()
    store = SqliteStore(tmp_path / SQLITE_FILE)
    records, _ = await store.list(10)
    await store.stop()

    assert len(records) == 2
    assert all(max(record.checkpoints) > 0 for record in records)


@pytest.mark.parametrize("durability", ["async", "sync"])
async def test_an_outage_lasts_until_the_last_answer(model: Path, tmp_path: Path, durability: str) -> None:
    """Every session is answered, and not before the new server listens; the store has what was before."""
    outage = await measure_outage(model, tmp_path, durability, 2)
    store = SqliteStore(tmp_path / SQLITE_FILE)
    records, _ = await store.list(10)
    await store.stop()

    assert outage.ready > 0
    assert 0 < outage.first <= outage.last
    assert [record.epoch for record in records] == [2, 2]
    assert all(max(record.checkpoints) <= NUM_STEPS + 1 for record in records)


async def test_valkey_keeps_on_disk_what_it_is_told_to(tmp_path: Path) -> None:
    """The server in memory writes no file, the other one writes its log."""
    require_valkey()
    folders = [tmp_path / "memory", tmp_path / "kept"]
    for folder, options in zip(folders, ((), KEPT), strict=True):
        folder.mkdir()
        with Valkey(folder, free_ports(1)[0], *options) as valkey:
            store = ValkeyStore(valkey.url)
            assert await store.read("a") is None
            await store.stop()

    assert [path.name for path in folders[0].iterdir()] == ["valkey.log"]
    assert (folders[1] / "appendonlydir").is_dir()


def test_the_report_judges_the_median_of_ratios() -> None:
    """One bad round among three does not miss what is asked, two do; every part has its lines."""
    even = Measurement(rate=1000.0, p50=0.001, p99=0.002)
    good = {case: Comparison(even, even, even) for case in CASES}
    bad = {case: Comparison(even, Measurement(rate=500.0, p50=0.001, p99=0.002), even) for case in CASES}
    outages = [{("sync", 1): Outage(1.0, 1.5, 2.5)}]
    starts = [{0: Start(1.0, 0.1), 7000: Start(1.25, 0.2)}]

    reports = [
        make_report(Results(rounds, outages, starts, 3_000_000, {"in the arena": 5000.0}))
        for rounds in ([good, bad, good], [good, bad, bad])
    ]

    assert "| ASYNC, SQLite | 1,000 | 1,000 | 1.00 (0.50 to 1.00) | at least 0.9: met |" in reports[0]
    assert "at least 0.9: **missed**" in reports[1]
    assert all(case.title in reports[0] for case in (*CASES, Case("SQLite", "async")))
    assert "| SYNC, 1 | 1.00 (1.00 to 1.00) | 1.50 (1.50 to 1.50) | 2.50 (2.50 to 2.50) |" in reports[0]
    assert "| 7,000 | 1.25 (1.25 to 1.25) | 0.20 (0.20 to 0.20) |" in reports[0]

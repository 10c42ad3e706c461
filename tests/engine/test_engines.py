"""Sessions over all models: their ids, and what becomes of them between servers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from conveyor.engine.durability import Durability, Mode
from conveyor.engine.engine import Engine
from conveyor.engine.engines import Engines
from conveyor.engine.limits import Device, Limits
from conveyor.engine.store_writer import StoreWriter
from conveyor.engine.work import OpenOptions
from conveyor.errors import AlreadyExists, NotFound
from conveyor.graph.model_file import ModelFile, model_from_proto
from conveyor.store.memory import MemoryStore
from tests.engine.test_engine import Counts
from tests.models import make_model


@pytest.fixture(scope="module")
def make() -> Callable[[str, int], Engine]:
    model: ModelFile = model_from_proto(make_model()[0])
    limits, device = Limits(num_slots=2, max_batch=2), Device("cpu", num_threads=1)
    return lambda name, version: Engine(model, name, version, limits, device, Counts())


async def test_ids_are_unique_over_all_models(make: Callable[[str, int], Engine]) -> None:
    """An id that a session of any model has is refused, and leads to that session's engine."""
    first, second = make("a", 1), make("b", 1)
    engines = Engines([first, second])
    await engines.open("b", 0, OpenOptions(session_id="x"), {})

    assert engines.of_session("x") is second
    with pytest.raises(AlreadyExists):
        await engines.open("a", 0, OpenOptions(session_id="x"), {})
    with pytest.raises(NotFound):
        engines.of_session("y")
    second.close("x")
    await engines.open("a", 0, OpenOptions(session_id="x"), {})
    assert engines.of_session("x") is first


async def test_a_server_that_lost_a_session_gives_it_to_no_newcomer(make: Callable[[str, int], Engine]) -> None:
    """Who attaches without having seen an epoch gets the session as the store has it, not an old owner's copy."""
    store = MemoryStore()
    async with serving(store) as first, serving(store) as second:
        await first.open("lm", 0, OpenOptions(session_id="x", durability=Durability(Mode.SYNC)), {})
        assert (await second.resume("x", None, 0)).epoch == 2

        assert (await first.resume("x", None, 0)).epoch == 3


async def test_nothing_is_taken_for_a_client_that_is_gone(make: Callable[[str, int], Engine]) -> None:
    """A request that is given up as soon as it is read leaves the session where it is; one beside it gets it."""
    store = MemoryStore()
    async with serving(store) as first, serving(store) as second:
        await first.open("lm", 0, OpenOptions(session_id="x", durability=Durability(Mode.SYNC)), {})
        for num_staying, epoch in ((0, 1), (1, 2)):
            gone, *staying = [asyncio.ensure_future(second.resume("x", None, 1)) for _ in range(1 + num_staying)]
            await asyncio.sleep(0)
            gone.cancel()
            await asyncio.gather(*staying)
            await asyncio.sleep(0.1)
            record = await store.read("x")
            assert record is not None
            assert record.epoch == epoch


@asynccontextmanager
async def serving(store: MemoryStore) -> AsyncIterator[Engines]:
    """One server of a store that servers share."""
    writer = StoreWriter(store)
    limits, device = Limits(num_slots=2, max_batch=2), Device("cpu", num_threads=1)
    engine = Engine(model_from_proto(make_model()[0]), "lm", 1, limits, device, Counts(), writer)
    writer.start()
    engine.start()
    yield Engines([engine], writer)
    await engine.stop()
    await writer.stop(1)

"""Which engine a name or an id leads to."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from conveyor.engine.aliases import Alias
from conveyor.engine.durability import Durability, Mode
from conveyor.engine.engine import Engine
from conveyor.engine.engines import Engines
from conveyor.engine.limits import Device, Limits
from conveyor.engine.store_writer import StoreWriter
from conveyor.engine.work import OpenOptions
from conveyor.errors import AlreadyExists, InvalidArgument, NotFound
from conveyor.graph.model_file import ModelFile, model_from_proto
from conveyor.store.memory import MemoryStore
from tests.engine.test_engine import Counts
from tests.models import make_model


@pytest.fixture(scope="module")
def make() -> Callable[[str, int], Engine]:
    model: ModelFile = model_from_proto(make_model()[0])
    limits, device = Limits(num_slots=2, max_batch=2), Device("cpu", num_threads=1)
    return lambda name, version: Engine(model, name, version, limits, device, Counts())


def test_models_are_found_by_name_and_version(make: Callable[[str, int], Engine]) -> None:
    """Version 0 is the newest by number; a name or version that is not loaded is told with what is."""
    old, new, other = make("lm", 9), make("lm", 10), make("tagger", 1)
    engines = Engines([new, other, old])

    assert engines.all() == [old, new, other]
    assert engines.of_model("lm") is new
    assert engines.of_model("lm", 9) is old
    with pytest.raises(NotFound, match="loaded: 9, 10"):
        engines.of_model("lm", 3)
    with pytest.raises(NotFound, match="loaded: lm, tagger"):
        engines.of_model("vad")
    with pytest.raises(NotFound, match="must be given"):
        engines.of_model("")


def test_a_lone_model_needs_no_name(make: Callable[[str, int], Engine]) -> None:
    """While one model is loaded, in however many versions, its name may be left out."""
    old, new = make("lm", 1), make("lm", 2)

    assert Engines([old, new]).of_model("") is new
    assert Engines([old, new]).of_model("", 1) is old


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


def test_retired_engines_take_no_new_sessions(make: Callable[[str, int], Engine]) -> None:
    """They are found by their version, for the sessions that they have; new ones go to what is left, or nowhere."""
    old, new = make("lm", 1), make("lm", 2)
    engines = Engines([old, new])
    engines.retire(new)

    assert engines.of_model("lm") is engines.to_open("", 0, "", "x") is old
    assert engines.of_model("lm", 2) is new
    with pytest.raises(NotFound, match="version 2 is being unloaded"):
        engines.to_open("lm", 2, "", "x")
    engines.reopen(new)
    assert engines.to_open("lm", 0, "", "x") is new
    engines.remove(new)
    engines.retire(old)
    assert engines.open_names == set()
    with pytest.raises(NotFound, match="no model is named 'lm'; loaded: none"):
        engines.of_model("lm")


def test_aliases_lead_to_versions(make: Callable[[str, int], Engine]) -> None:
    """By name exactly; without one by share, as far as the versions are there."""
    old, new = make("lm", 3), make("lm", 4)
    engines = Engines([old, new])
    engines.set_aliases("lm", {"stable": Alias(3), "canary": Alias(4, 100)})

    assert engines.to_open("lm", 0, "stable", "x") is old
    assert engines.to_open("lm", 0, "canary", "x") is engines.to_open("lm", 0, "", "x") is new
    assert engines.to_open("lm", 3, "", "x") is old
    with pytest.raises(InvalidArgument, match="model_alias: a version is given too"):
        engines.to_open("lm", 3, "stable", "x")
    with pytest.raises(NotFound, match="no alias 'beta'; it has: stable, canary"):
        engines.to_open("lm", 0, "beta", "x")
    engines.retire(new)
    assert engines.to_open("lm", 0, "", "x") is old


def test_nobody_is_put_on_a_canary_because_the_stable_version_is_gone(make: Callable[[str, int], Engine]) -> None:
    """Opening is refused instead."""
    engines = Engines([make("lm", 4)])
    engines.set_aliases("lm", {"stable": Alias(3), "canary": Alias(4)})

    with pytest.raises(NotFound, match="no version 3; loaded: 4"):
        engines.to_open("lm", 0, "", "x")
    assert engines.to_open("lm", 0, "canary", "x").version == 4


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

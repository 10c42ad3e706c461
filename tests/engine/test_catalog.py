"""Models, versions and aliases lead to engines."""

from collections.abc import Callable

import pytest

from conveyor.engine.aliases import Alias
from conveyor.engine.catalog import Catalog
from conveyor.engine.engine import Engine
from conveyor.engine.limits import Device, Limits
from conveyor.errors import InvalidArgument, NotFound
from conveyor.graph.model_file import ModelFile, model_from_proto
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
    catalog = Catalog([new, other, old])

    assert catalog.all() == [old, new, other]
    assert catalog.of_model("lm") is new
    assert catalog.of_model("lm", 9) is old
    with pytest.raises(NotFound, match="loaded: 9, 10"):
        catalog.of_model("lm", 3)
    with pytest.raises(NotFound, match="loaded: lm, tagger"):
        catalog.of_model("vad")
    with pytest.raises(NotFound, match="must be given"):
        catalog.of_model("")


def test_a_lone_model_needs_no_name(make: Callable[[str, int], Engine]) -> None:
    """While one model is loaded, in however many versions, its name may be left out."""
    old, new = make("lm", 1), make("lm", 2)

    assert Catalog([old, new]).of_model("") is new
    assert Catalog([old, new]).of_model("", 1) is old


def test_retired_engines_take_no_new_sessions(make: Callable[[str, int], Engine]) -> None:
    """They are found by their version, for the sessions that they have; new ones go to what is left, or nowhere."""
    old, new = make("lm", 1), make("lm", 2)
    catalog = Catalog([old, new])
    catalog.retire(new)

    assert catalog.of_model("lm") is catalog.to_open("", 0, "", "x") is old
    assert catalog.of_model("lm", 2) is new
    with pytest.raises(NotFound, match="version 2 is being unloaded"):
        catalog.to_open("lm", 2, "", "x")
    catalog.reopen(new)
    assert catalog.to_open("lm", 0, "", "x") is new
    catalog.remove(new)
    catalog.retire(old)
    assert catalog.open_names == set()
    with pytest.raises(NotFound, match="no model is named 'lm'; loaded: none"):
        catalog.of_model("lm")


def test_aliases_lead_to_versions(make: Callable[[str, int], Engine]) -> None:
    """By name exactly; without one by share, as far as the versions are there."""
    old, new = make("lm", 3), make("lm", 4)
    catalog = Catalog([old, new])
    catalog.set_aliases("lm", {"stable": Alias(3), "canary": Alias(4, 100)})

    assert catalog.to_open("lm", 0, "stable", "x") is old
    assert catalog.to_open("lm", 0, "canary", "x") is catalog.to_open("lm", 0, "", "x") is new
    assert catalog.to_open("lm", 3, "", "x") is old
    with pytest.raises(InvalidArgument, match="model_alias: a version is given too"):
        catalog.to_open("lm", 3, "stable", "x")
    with pytest.raises(NotFound, match="no alias 'beta'; it has: stable, canary"):
        catalog.to_open("lm", 0, "beta", "x")
    catalog.retire(new)
    assert catalog.to_open("lm", 0, "", "x") is old


def test_nobody_is_put_on_a_canary_because_the_stable_version_is_gone(make: Callable[[str, int], Engine]) -> None:
    """Opening is refused instead."""
    catalog = Catalog([make("lm", 4)])
    catalog.set_aliases("lm", {"stable": Alias(3), "canary": Alias(4)})

    with pytest.raises(NotFound, match="no version 3; loaded: 4"):
        catalog.to_open("lm", 0, "", "x")
    assert catalog.to_open("lm", 0, "canary", "x").version == 4

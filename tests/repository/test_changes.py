"""Which models are due at a look at the folder."""

from pathlib import Path

from conveyor.repository.changes import Changes
from conveyor.repository.folder import ModelFolder


def found(*names: str, size: int = 1) -> dict[str, ModelFolder]:
    """Models whose files have this size."""
    return {name: ModelFolder(name, Path(name), mark=((name, size, 0),)) for name in names}


def test_what_is_still_is_due_once() -> None:
    """A model that comes or changes is left alone until two looks find the same, and then applied once."""
    changes = Changes()
    assert changes.due(found("a")) == []
    assert changes.due(found("a", size=2)) == []
    assert changes.due(found("a", size=2)) == ["a"]
    changes.apply("a", found("a", size=2)["a"])
    assert changes.due(found("a", size=2)) == []
    assert changes.due(found("a")) == []
    assert changes.due(found("a")) == ["a"]


def test_what_is_gone_is_due() -> None:
    """If two looks do not find it; and one that was to be tried again is gone like any other."""
    changes = Changes()
    for name in ("a", "b"):
        changes.apply(name, found(name)[name])
    changes.due(found("a", "b"))
    changes.try_again("b")
    assert changes.due(found("a")) == []
    assert changes.due(found("a")) == ["b"]
    changes.apply("b", None)
    assert changes.due(found("a")) == []


def test_what_is_to_be_tried_again() -> None:
    """It is due though nothing of it has changed, once."""
    changes = Changes()
    changes.apply("a", found("a")["a"])
    changes.due(found("a"))
    changes.try_again("a")
    assert changes.due(found("a")) == ["a"]
    changes.apply("a", found("a")["a"])
    assert changes.due(found("a")) == []

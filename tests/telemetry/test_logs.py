"""Log lines, for machines and for people."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from conveyor.telemetry.logs import report, set_up


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def lines_of(form: str, level: str = "info") -> list[str]:
    """What a few records become."""
    stream = io.StringIO()
    set_up(level, form, stream)
    log = logging.getLogger("conveyor.test")
    log.info("session opened", extra={"session_id": "a b", "position": 3})
    log.debug("detail")
    report(RuntimeError("broken"))
    return stream.getvalue().splitlines()


def test_json_has_an_object_a_line() -> None:
    """Event, fields and traceback are all in it, the traceback's lines included."""
    first, second = map(json.loads, lines_of("json"))

    assert (first["event"], first["session_id"], first["position"], first["level"]) == (
        "session opened",
        "a b",
        3,
        "info",
    )
    assert first["logger"] == "conveyor.test"
    assert first["time"].endswith("Z")
    assert len(second["error_id"]) == 16
    assert "RuntimeError: broken" in second["exception"]


def test_text_has_pairs() -> None:
    """Fields follow the event as key=value, quoted where they need it."""
    lines = lines_of("text")

    assert lines[0].endswith('info    session opened session_id="a b" position=3')
    assert lines[-1] == "RuntimeError: broken"


def test_the_level_is_a_threshold() -> None:
    """Below it nothing is written."""
    assert len(lines_of("json", "debug")) == 3
    assert len(lines_of("json", "error")) == 1

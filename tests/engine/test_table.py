"""Sessions open, are found, and expire; the time is what the test says."""

from dataclasses import fields
from typing import Any

import pytest

from conveyor.engine.limits import Limits
from conveyor.engine.session import Session
from conveyor.engine.table import SessionTable
from conveyor.engine.work import EndReason, OpenOptions
from conveyor.errors import AlreadyExists, NotFound, ResourceExhausted

LIMITS = Limits(idle_timeout=10.0, max_idle_timeout=100.0, max_lifetime=1000.0, max_sessions=3)


def open_session(table: SessionTable, now: float = 0.0, **options: Any) -> Session:
    return table.open(OpenOptions(**options), now)


def reasons(table: SessionTable, now: float) -> list[tuple[str, EndReason]]:
    """Whose time is up, and why; they are removed, as the caller of `expired` does."""
    ended = table.expired(now, 100)
    for session, _ in ended:
        table.remove(session)
    return [(session.session_id, reason) for session, reason in ended]


def test_no_more_expire_at_once_than_asked_for() -> None:
    """The others do when they are asked for next."""
    table = SessionTable(LIMITS)
    for name in "abc":
        open_session(table, session_id=name)
    for expected in (["a", "b"], ["c"], []):
        ended = table.expired(11.0, 2)
        for session, _ in ended:
            table.remove(session)
        assert [session.session_id for session, _ in ended] == expected


def test_a_session_is_found_by_its_id() -> None:
    """A client's own id, and one that the table mints, lead to the session until it is removed."""
    table = SessionTable(LIMITS)
    own, minted = open_session(table, session_id="mine"), open_session(table)

    assert table.get("mine") is own
    assert table.get(minted.session_id) is minted
    assert len(minted.session_id) == 32
    assert list(table) == [own, minted]
    table.remove(own)
    assert "mine" not in table
    assert not own.is_open
    with pytest.raises(NotFound, match="'mine'"):
        table.get("mine")


def test_an_id_is_used_once_at_a_time() -> None:
    """An open session's id is refused; a closed one's may be used again, by a session that starts anew."""
    table = SessionTable(LIMITS)
    old = open_session(table, session_id="a")
    old.position = 5
    with pytest.raises(AlreadyExists):
        open_session(table, session_id="a")
    table.remove(old)

    assert open_session(table, session_id="a").position == 0


def test_sessions_are_bounded() -> None:
    """No more sessions are opened than the limit allows; one that closes makes room."""
    table = SessionTable(LIMITS)
    sessions = [open_session(table) for _ in range(3)]
    with pytest.raises(ResourceExhausted) as caught:
        open_session(table)

    assert caught.value.reason == "sessions"
    table.remove(sessions[0])
    open_session(table)
    assert len(table) == 3


def test_seeds() -> None:
    """A session takes the seed it is given, 0 too; others draw different ones of 64 bits."""
    table = SessionTable(LIMITS)

    assert open_session(table, seed=0).seed == 0
    first, second = open_session(table).seed, open_session(table).seed
    assert first != second
    assert 0 <= min(first, second) <= max(first, second) < 2**64


def test_an_idle_session_expires() -> None:
    """A session ends once it was not used for its idle timeout, counted from its last use."""
    table = SessionTable(LIMITS)
    session = open_session(table, session_id="a")
    session.last_used = 6.0

    assert reasons(table, 10.0) == []
    assert reasons(table, 15.9) == []
    assert reasons(table, 16.0) == [("a", EndReason.IDLE)]
    assert reasons(table, 99.0) == []


def test_a_busy_session_does_not_idle_out() -> None:
    """A session with work is not idle, however old its last use is; without work it is again."""
    table = SessionTable(LIMITS)
    session = open_session(table, session_id="a")
    session.jobs.append(None)  # type: ignore[arg-type]

    assert reasons(table, 50.0) == []
    session.jobs.clear()
    session.last_used = 51.0
    assert reasons(table, 60.9) == []
    assert reasons(table, 61.0) == [("a", EndReason.IDLE)]


def test_a_lifetime_ends_busy_sessions_too() -> None:
    """At the end of its lifetime a session ends, used or not, with work or not."""
    table = SessionTable(LIMITS)
    for name in "ab":
        session = open_session(table, session_id=name, max_lifetime=30.0, idle_timeout=20.0)
        session.last_used = 29.0
    session.jobs.append(None)  # type: ignore[arg-type]

    assert reasons(table, 29.9) == []
    assert sorted(reasons(table, 30.0)) == [("a", EndReason.LIFETIME), ("b", EndReason.LIFETIME)]


def test_wishes_are_cut_to_the_limits() -> None:
    """Times longer than the limits are cut to them; `expires` tells whichever runs out first."""
    table = SessionTable(LIMITS)

    assert open_session(table, now=5.0).expires == 15.0
    assert open_session(table, idle_timeout=5000.0).expires == 100.0
    assert open_session(table, idle_timeout=50.0, max_lifetime=7.0).expires == 7.0


def test_each_session_has_its_own_timeout() -> None:
    """Sessions end in the order of their own timeouts, not of their opening."""
    table = SessionTable(LIMITS)
    for name, timeout in (("slow", 30.0), ("quick", 1.0), ("default", None)):
        open_session(table, session_id=name, idle_timeout=timeout)

    assert [reasons(table, now) for now in (1.0, 10.0, 30.0)] == [
        [("quick", EndReason.IDLE)],
        [("default", EndReason.IDLE)],
        [("slow", EndReason.IDLE)],
    ]


def test_closed_sessions_are_forgotten() -> None:
    """Many short sessions leave nothing behind, though none of their deadlines has come."""
    table = SessionTable(LIMITS)
    for _ in range(1000):
        table.remove(open_session(table))

    assert len(table._deadlines) < 100


def test_limits_are_checked() -> None:
    """Limits that cannot be met are refused in words that name each of them."""
    with pytest.raises(ValueError, match="idle_timeout") as caught:
        Limits(**{field.name: -1 for field in fields(Limits)})

    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [field.name for field in fields(Limits)]
    with pytest.raises(ValueError, match="above max_idle_timeout"):
        Limits(idle_timeout=2.0, max_idle_timeout=1.0)

"""What an engine tells of itself: how much it holds, and each session as clients see it."""

import time
from collections.abc import Iterable
from heapq import nsmallest

from conveyor.engine.core import Core
from conveyor.engine.durability import NOT_STORED
from conveyor.engine.limits import EngineStats, Limits
from conveyor.engine.prefixes import Prefixes
from conveyor.engine.runner import Runner
from conveyor.engine.session import Session
from conveyor.engine.work import Residency, SessionView

# Of the wall clock to the engine's.
CLOCK_OFFSET = time.time() - time.monotonic()


def stats_of(core: Core, limits: Limits, runner: Runner, prefixes: Prefixes) -> EngineStats:
    """What an engine holds now."""
    residence = core.residence
    durable = [(session, session.stored) for session in core.table if session.stored]
    return EngineStats(
        num_sessions=len(core.table),
        num_resident=residence.num_resident,
        num_spilled=len(residence.spilled),
        num_slots=limits.num_slots,
        num_free_slots=max(0, limits.num_slots - residence.num_resident),
        arena_bytes=runner.arena_bytes,
        spilled_bytes=residence.spilled.num_bytes,
        context_bytes=len(core.table) * sum(arena.row_bytes for arena in runner.graph.contexts),
        num_waiting=core.num_waiting,
        prefix_bytes=prefixes.cache.num_bytes,
        num_durable=len(durable),
        num_unstored=sum(session.position - (stored.newest or 0) for session, stored in durable),
    )


def page_of(sessions: Iterable[Session], count: int, after: tuple[float, str] | None) -> list[Session]:
    """The next so many sessions by creation time (Unix seconds) and id, behind such a place."""
    # There may be a hundred thousand, and all else waits: nothing is sorted that is not on the page.
    return nsmallest(count, (each for each in sessions if after is None or _place(each) > after), key=_place)


def _place(session: Session) -> tuple[float, str]:
    return session.opened + CLOCK_OFFSET, session.session_id


def view_of(session: Session, model: tuple[str, int], state_bytes: int) -> SessionView:
    """A session now. `model` is name and version."""
    stored = session.stored
    return SessionView(
        session.session_id,
        *model,
        session.position,
        session.seed,
        create_time=session.opened + CLOCK_OFFSET,
        expire_time=session.expires + CLOCK_OFFSET,
        residence=Residency.RESIDENT if session.slot else Residency.SPILLED,
        state_bytes=state_bytes,
        durability=stored.durability if stored else NOT_STORED,
        durable_position=stored.newest if stored else None,
        epoch=stored.told_epoch if stored else 0,
    )

"""Which sessions are to be stored now. Pure: the time is an argument."""

import heapq
from itertools import count

from conveyor.engine.session import Session

# Until a checkpoint that did not get to the store is tried again, if no further step makes it due before.
RETRY_SECONDS = 0.5
MIN_TIMERS = 64  # below which it is not worth while to look for those that are over


class Checkpointer:
    """Follows the sessions that have durability, from the first step that is not stored until it is."""

    def __init__(self) -> None:
        self._due: dict[Session, None] = {}
        # (time, tie-breaker, session, since when it was dirty when the timer was set)
        self._timers: list[tuple[float, int, Session, float]] = []
        self._most_timers = MIN_TIMERS
        self._ties = count()

    def advanced(self, session: Session, now: float) -> None:
        """Takes note that the session has moved."""
        stored = session.stored
        if stored is None:
            return
        if stored.dirty_since is None:
            stored.dirty_since = now
            if not stored.is_sync:
                self._set_timer(session, now, stored.durability.every_seconds)
        if session.position >= stored.due_at:
            self._due[session] = None

    @staticmethod
    def taken(session: Session) -> None:
        """Takes note that the session's state, as it is now, is on its way to the store."""
        if session.stored is not None:
            session.stored.begin(session.position)

    def failed(self, session: Session, now: float) -> None:
        """Takes note that it did not get there: it will be tried again in a while."""
        if session.stored is not None:
            session.stored.end()
            session.stored.dirty_since = now
            self._set_timer(session, now, RETRY_SECONDS)

    def _set_timer(self, session: Session, now: float, seconds: float) -> None:
        # Each checkpoint leaves a timer behind, which may have a day to go: without this they would fill memory.
        if len(self._timers) >= self._most_timers:
            self._timers = [timer for timer in self._timers if _is_dirty_since(timer[2], timer[3])]
            heapq.heapify(self._timers)
            self._most_timers = 2 * len(self._timers) + MIN_TIMERS
        heapq.heappush(self._timers, (now + seconds, next(self._ties), session, now))

    def insist(self, session: Session) -> None:
        """Makes a session due at once, if there is anything of it to be stored."""
        self._due[session] = None

    def renew(self, session: Session, now: float) -> None:
        """Makes a session due at once, whatever the store has of it."""
        if session.stored is not None:
            session.stored.dirty_since = now
            self._due[session] = None

    def forget(self, session: Session) -> None:
        """Forgets a session that has ended."""
        self._due.pop(session, None)

    def is_waiting(self, now: float) -> bool:
        """True if a session may be due."""
        return bool(self._due) or bool(self._timers and self._timers[0][0] <= now)

    def take(self, now: float, most: int) -> list[Session]:
        """At most so many sessions to be stored now, those first that have been due for longest.

        One whose last checkpoint is still on its way comes later, if it moves on.
        """
        while self._timers and self._timers[0][0] <= now:
            *_, session, since = heapq.heappop(self._timers)
            # If what was dirty then has been stored, later steps have a timer of their own.
            if _is_dirty_since(session, since):
                self._due[session] = None
        taken, over = list[Session](), list[Session]()
        for session in self._due:
            if len(taken) == most:
                break
            if session.stored is None or session.stored.dirty_since is None:
                over.append(session)
            elif _can_be_stored(session):
                taken.append(session)
        for session in (*taken, *over):
            del self._due[session]
        return taken


def _is_dirty_since(session: Session, since: float) -> bool:
    return session.is_open and session.stored is not None and session.stored.dirty_since == since


def _can_be_stored(session: Session) -> bool:
    stored = session.stored
    return stored is not None and bool(stored.epoch) and stored.writing is None and not session.is_leaving

"""The sessions of one model: opening, finding, expiring. Does no I/O; the time is an argument."""

import heapq
import secrets
from array import array
from collections import deque
from collections.abc import Iterator
from itertools import count

from conveyor.engine.limits import Limits
from conveyor.engine.session import MAX_REMEMBERED, Session
from conveyor.engine.work import EndReason, OpenOptions, Start
from conveyor.errors import AlreadyExists, NotFound, ResourceExhausted, Unavailable

ALIKE = Start()


def new_session_id() -> str:
    """An id that nobody has or guesses."""
    return secrets.token_hex(16)


class SessionTable:
    """Every open session, in opening order. If `is_followed`, the new ones have a history."""

    def __init__(self, limits: Limits, *, is_followed: bool = False) -> None:
        self._limits = limits
        self._is_followed = is_followed
        self._sessions: dict[str, Session] = {}
        # (time to look again, tie-breaker, session). A session that was used since is pushed again when it comes up,
        # so that using a session costs nothing here.
        self._deadlines: list[tuple[float, int, Session]] = []
        self._ties = count()

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._sessions

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())

    def open(self, options: OpenOptions, now: float, start: Start = ALIKE) -> Session:
        """Adds a session where it starts.

        Raises:
            AlreadyExists: the id is in use.
            ResourceExhausted: as many sessions are open as may be.
        """
        session_id = options.session_id or new_session_id()
        if session_id in self._sessions:
            raise AlreadyExists(f"session_id: {session_id} is open")
        self.check_room()
        session = Session(
            session_id,
            seed=secrets.randbits(64) if options.seed is None else options.seed,
            opened=now - start.age,
            idle_timeout=min(options.idle_timeout or self._limits.idle_timeout, self._limits.max_idle_timeout),
            lifetime_ends=now + min(options.max_lifetime or self._limits.max_lifetime, self._limits.max_lifetime),
            last_used=now,
            contexts=start.contexts,
            initial=start.initial,
            position=start.position,
            pending=start.pending,
            tail=start.position,
            history=array("q") if self._is_followed and not start.position else None,
            seen=None if start.seen is None else deque(start.seen, maxlen=MAX_REMEMBERED),
            acknowledged=start.position,
        )
        self._sessions[session_id] = session
        self._forget_closed()
        heapq.heappush(self._deadlines, (session.expires, next(self._ties), session))
        return session

    def check_room(self) -> None:
        """Raises ResourceExhausted if as many sessions are open as may be."""
        if len(self._sessions) >= self._limits.max_sessions:
            raise ResourceExhausted("sessions", f"{self._limits.max_sessions} sessions are open, the most allowed")

    def get(self, session_id: str) -> Session:
        """The open session of that id.

        Raises:
            NotFound: there is none.
            Unavailable: it is being opened, and may turn out to be another that is in the store.
        """
        try:
            session = self._sessions[session_id]
        except KeyError:
            raise NotFound(f"session_id: no session {session_id!r} is open: unknown, expired or closed") from None
        if session.is_opening:
            raise Unavailable(f"session_id: session {session_id!r} is being opened")
        return session

    def remove(self, session: Session) -> None:
        """Takes a session out; it can no longer be found."""
        del self._sessions[session.session_id]
        session.is_open = False

    def _forget_closed(self) -> None:
        # Closed sessions leave their deadline behind; without this, many short sessions would fill memory with them.
        if len(self._deadlines) > 2 * len(self._sessions) + 64:
            self._deadlines = [entry for entry in self._deadlines if entry[2].is_open]
            heapq.heapify(self._deadlines)

    def expired(self, now: float, most: int) -> list[tuple[Session, EndReason]]:
        """At most so many sessions whose time is up. They are still in the table: the caller ends them."""
        ended: list[tuple[Session, EndReason]] = []
        while len(ended) < most and self._deadlines and self._deadlines[0][0] <= now:
            session = heapq.heappop(self._deadlines)[2]
            if not session.is_open:
                continue
            if session.lifetime_ends <= now:
                ended.append((session, EndReason.LIFETIME))
            elif session.expires <= now and not session.jobs:
                ended.append((session, EndReason.IDLE))
            else:
                # A session with work is not idle however old the work is: look again after one more timeout.
                again = session.expires if session.expires > now else now + session.idle_timeout
                heapq.heappush(self._deadlines, (min(again, session.lifetime_ends), next(self._ties), session))
        return ended

"""Which sessions each stream was the last to step: it hears when they end, and takes their work along when it goes."""

from collections.abc import Iterable

from conveyor.engine.session import Session
from conveyor.engine.work import Sink


class Attachments:
    """A session is attached to at most one sink, its `sink`."""

    def __init__(self) -> None:
        self._sessions: dict[Sink, dict[Session, None]] = {}

    def __len__(self) -> int:
        """Sinks that have sessions."""
        return len(self._sessions)

    def attach(self, session: Session, sink: Sink) -> None:
        """Takes a session from the sink that it had."""
        self.leave(session)
        session.sink = sink
        self._sessions.setdefault(sink, {})[session] = None

    def leave(self, session: Session) -> None:
        """Takes a session out; it keeps the sink, which is still to hear of its end."""
        if session.sink is None:
            return
        sessions = self._sessions[session.sink]
        del sessions[session]
        if not sessions:
            del self._sessions[session.sink]

    def forget(self, sink: Sink) -> Iterable[Session]:
        """Forgets a sink, and returns the sessions that it had."""
        sessions = self._sessions.pop(sink, {})
        for session in sessions:
            session.sink = None
        return sessions

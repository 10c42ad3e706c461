"""Hands out what has come up in the core: to the callers, to the store, to metrics and log."""

import logging
from collections.abc import Callable

from conveyor.engine.core import Core
from conveyor.engine.session import Session
from conveyor.engine.work import EndReason, Observer, Sink

log = logging.getLogger("conveyor.engine")


class Delivery:
    """One engine's. `forget` takes a session that has ended out of the store."""

    def __init__(
        self, model: tuple[str, int], core: Core, observer: Observer, forget: Callable[[Session, EndReason], None]
    ) -> None:
        self._name, self._version = model
        self._core = core
        self._observer = observer
        self._forget = forget

    def deliver(self) -> None:
        """Outcomes that have come together, then the ends of sessions, then one flush for each sink."""
        core = self._core
        outcomes, core.outbox.ready = core.outbox.ready, []
        sinks: dict[Sink, None] = {}
        for sink, tag, outcome in outcomes:
            sink.put(tag, outcome)
            sinks[sink] = None
        ended, core.ended = core.ended, []
        for session, reason in ended:
            self._end(session, reason)
            if session.sink is not None:
                session.sink.end(session.session_id, reason, session.position)
                sinks[session.sink] = None
        for sink in sinks:
            sink.flush()

    def _end(self, session: Session, reason: EndReason) -> None:
        self._observer.session_ended(reason)
        self._forget(session, reason)
        fields = {
            "session_id": session.session_id,
            "model": self._name,
            "version": self._version,
            "reason": reason.value,
            "position": session.position,
        }
        log.info("session closed", extra=fields)

"""Outcomes between the core and their sinks. Those of a SYNC session wait here until the store has what they tell."""

from typing import Any

from conveyor.engine.checkpointer import Checkpointer
from conveyor.engine.durability import Stored
from conveyor.engine.session import Session
from conveyor.engine.work import Answer, Sink, Token
from conveyor.errors import ConveyorError

Outcome = tuple[Sink, Any, Answer | Token | ConveyorError]


class Outbox:
    """`ready` is for whoever delivers it. `num_waiting` counts work whose last outcome has not come to `ready`."""

    def __init__(self, checkpointer: Checkpointer) -> None:
        self.ready: list[Outcome] = []
        self.num_waiting = 0
        self._checkpointer = checkpointer

    def tell(self, session: Session, outcome: Outcome, *, is_last: bool) -> None:
        """Sends an outcome, or holds it back."""
        stored = session.stored
        if stored is not None:
            if stored.is_sync and session.is_open and self._must_wait(session, stored, outcome):
                position = session.position if isinstance(outcome[2], Exception) else outcome[2].position
                stored.held.append((position, outcome, is_last))
                return
            _date(outcome, session, stored)
        self.ready.append(outcome)
        self.num_waiting -= is_last

    def _must_wait(self, session: Session, stored: Stored, outcome: Outcome) -> bool:
        if not isinstance(outcome[2], Exception) and outcome[2].position > (stored.newest or 0):
            self._checkpointer.insist(session)
            return True
        return bool(stored.held)  # behind those that wait, for their order

    def stored(self, session: Session) -> None:
        """Sends what waited for the session's newest checkpoint."""
        stored = session.stored
        if stored is None or not stored.held:
            return
        waiting, newest = stored.held, stored.newest or 0
        # Not all behind it are at later positions: an answer that is asked for again waits for its turn too.
        end = next((index for index, held in enumerate(waiting) if held[0] > newest), len(waiting))
        stored.held = waiting[end:]
        for _, outcome, is_last in waiting[:end]:
            _date(outcome, session, stored)
            self.ready.append(outcome)
            self.num_waiting -= is_last

    def refuse(self, session: Session, error: ConveyorError) -> None:
        """Sends an error in place of each answer that waits, and of a last token; the core fails who draws more."""
        stored = session.stored
        if stored is None or not stored.held:
            return
        waiting, stored.held = stored.held, []
        for _, (sink, tag, result), is_last in waiting:
            if is_last:
                self.ready.append((sink, tag, result if isinstance(result, ConveyorError) else error))
                self.num_waiting -= 1

    def forget(self, sink: Sink) -> None:
        """Drops what is ready for a sink that is gone."""
        self.ready = [outcome for outcome in self.ready if outcome[0] is not sink]


def _date(outcome: Outcome, session: Session, stored: Stored) -> None:
    """Writes into an answer what the store has now."""
    result = outcome[2]
    if not isinstance(result, Exception):
        result.durable_position, result.epoch = stored.base(session.acknowledged), stored.told_epoch

"""States of spilled sessions, in host memory."""

from typing import Any

from numpy.typing import NDArray

Rows = dict[str, NDArray[Any]]


class SpilledStates:
    """Rows by session id: a state is here from when it leaves the arena until it is back in it."""

    def __init__(self) -> None:
        self._rows: dict[str, Rows] = {}
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, session_id: str, rows: Rows) -> None:
        """Keeps a state, in place of an older one of that session."""
        self.drop(session_id)
        self._rows[session_id] = rows
        self.num_bytes += sum(row.nbytes for row in rows.values())

    def get(self, session_id: str) -> Rows | None:
        """The state of a session; None if it was never spilled."""
        return self._rows.get(session_id)

    def drop(self, session_id: str) -> None:
        """Forgets a state, if it is here."""
        rows = self._rows.pop(session_id, {})
        self.num_bytes -= sum(row.nbytes for row in rows.values())

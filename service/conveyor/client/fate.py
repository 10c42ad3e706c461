"""Whether a session lives: what its servers told of it, and how far that is believed. No I/O."""

from conveyor.client.errors import ClientError, NotFound, SessionEnded

# After these the session lives on in the store, if its server has one.
_GOES_ON = {"drained", "moved"}
# Another server may have been asked, which has never heard of a session that is not stored, until the right one is
# back. For so many seconds NOT_FOUND is not believed.
DOUBT_SECONDS = 10.0


class Fate:
    """One session's. `is_ended` is True after the news of an end for good."""

    __slots__ = ("_doubt_ends", "_end", "_session_id", "_unbelieved", "is_ended")

    def __init__(self, session_id: str) -> None:
        self.is_ended = False
        self._session_id = session_id
        self._doubt_ends = 0.0
        self.live()

    def live(self) -> None:
        """Takes a sign of life: the session goes on."""
        self._end: tuple[str, int] | None = None
        self._unbelieved: NotFound | None = None

    def end(self, reason: str, position: int) -> None:
        """Takes the news that a server has ended the session. It may go on elsewhere."""
        self._end = (reason, position)
        self.is_ended = reason not in _GOES_ON

    def lose(self, now: float) -> None:
        """Takes the news that the connection or the server was lost. It gives no more time to what is doubted."""
        if self._unbelieved is None:
            self.suspect(now)

    def suspect(self, now: float) -> None:
        """Takes a first NOT_FOUND of a server that is one of several."""
        self._doubt_ends = now + DOUBT_SECONDS

    def is_in_doubt(self, now: float) -> bool:
        """True so soon after a loss that NOT_FOUND is not believed."""
        return now < self._doubt_ends

    def check_open(self) -> None:
        """Raises SessionEnded if the session has ended for good."""
        if self.is_ended and self._end is not None:
            raise SessionEnded(self._session_id, *self._end)

    def explain(self, error: ClientError) -> ClientError:
        """The same failure, or SessionEnded where that is what it means."""
        if isinstance(error, NotFound) and self._end is not None:
            return SessionEnded(self._session_id, *self._end)
        return error

    def explain_silence(self, error: ClientError) -> ClientError:
        """The same failure of a call that had no answer in time, or what was heard and not believed."""
        if self._unbelieved is not None:
            return self.explain(self._unbelieved)
        if self._end is not None:
            error.args = (f"{error} since its server ended the session: {self._end[0]}",)
        return error

    def is_doubtful(self, error: ClientError, now: float, *, is_stored: bool) -> bool:
        """True if the error says that there is no such session, so soon after a loss that another server may know it.

        A session that is stored is known to all servers.
        """
        if not isinstance(error, NotFound) or self.is_ended or is_stored:
            return False
        return self.is_in_doubt(now) or not error.is_certain

    def is_first_doubt(self, error: ClientError) -> bool:
        """True if the error says so for the first time since a sign of life."""
        if not isinstance(error, NotFound) or self.is_ended:
            return False
        was_believed, self._unbelieved = self._unbelieved is None, error
        return was_believed

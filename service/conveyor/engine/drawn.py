"""The tokens of a session's latest generation, for a client that lost its connection before it read them."""

from array import array
from collections.abc import Iterator

from conveyor.engine.work import FinishReason, Generation, Token

# A client is at most as far behind as what lay unread in its connection.
MAX_DRAWN = 1024


class Drawn:
    """`start` is the session's position before the prompt."""

    __slots__ = ("_alternatives", "_first", "_scores", "_tokens", "finish_reason", "prompt", "start")

    def __init__(self, start: int, prompt: list[int]) -> None:
        self.start = start
        self.prompt = prompt
        self.finish_reason: FinishReason | None = None  # of the last token
        self._first = start + len(prompt)  # position before the first token that is kept
        # Plain numbers: as objects, the tokens would take more memory than most states.
        self._tokens = array("q")
        self._scores = array("f")
        self._alternatives: list[tuple[list[int], list[float]]] = []

    def add(self, token: Token) -> None:
        """Keeps one more; the oldest go when there are many."""
        self._tokens.append(token.token)
        self._scores.append(token.log_probability)
        if token.top_tokens:
            self._alternatives.append((token.top_tokens, token.top_log_probabilities))
        self.finish_reason = token.finish_reason
        if len(self._tokens) >= 2 * MAX_DRAWN:
            self._first += MAX_DRAWN
            for kept in (self._tokens, self._scores, self._alternatives):
                del kept[:MAX_DRAWN]

    @property
    def tokens(self) -> list[int]:
        """The tokens that are kept, oldest first."""
        return self._tokens.tolist()

    def reaches(self, position: int) -> bool:
        """True if a client with the answers up to `position` can have the rest from here."""
        return position == self.start or self._first <= position

    def asked_for(self, generation: Generation, session_id: str) -> list[Token]:
        """What was drawn already of what this asks for: the same request again, or one that goes on among the tokens.

        Empty if it asks for something else, or for tokens that are not kept any more.
        """
        position = generation.position
        if position is None:
            return []
        is_same = position == self.start and generation.tokens == self.prompt and len(self.prompt) > 0
        if is_same:
            position = self.start + len(self.prompt)
        elif generation.tokens:
            return []
        if not self._first <= position < self._first + len(self._tokens):
            return []
        return list(self._from(position - self._first, session_id))

    def _from(self, index: int, session_id: str) -> Iterator[Token]:
        last = len(self._tokens) - 1
        for place in range(index, last + 1):
            tops, scores = self._alternatives[place] if self._alternatives else ([], [])
            finish_reason = self.finish_reason if place == last else None
            position = self._first + place + 1
            yield Token(session_id, position, self._tokens[place], self._scores[place], tops, scores, finish_reason)

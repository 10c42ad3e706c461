"""The tokens of a session's latest generation, for a client that lost its connection before it read them."""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any, Self

from conveyor.engine.work import Generation, Sampling, Token

# A client is at most as far behind as what lay unread in its connection.
MAX_DRAWN = 1024


class Drawn:
    """`start` is the session's position before the prompt, `seed` the key of the random numbers.

    `seen` are the tokens that the session remembers from before the prompt; `resent` those of its tokens, the prompt's
    included, that an earlier call of this generation had drawn.
    """

    __slots__ = ("_alternatives", "_first", "_prompt", "_scores", "_start", "_tokens", "_wishes", "resent")

    def __init__(self, start: int, generation: Generation, seed: int, seen: Iterable[int] = ()) -> None:
        self._start = start
        self._prompt = generation.tokens
        self._wishes = _wishes(generation, seed)
        told = [*seen, *self._prompt] if generation.num_generated else []
        self.resent = told[-generation.num_generated :]
        self._first = start + len(self._prompt)  # position before the first token that is kept
        # Plain numbers: as objects, the tokens would take more memory than most states.
        self._tokens = array("q")
        self._scores = array("f")
        self._alternatives: list[tuple[list[int], list[float]]] = []

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Self:
        """What `fields` gave, be it as JSON has it."""
        drawn = cls.__new__(cls)
        seed, sampling, top_k = fields["wishes"]
        drawn._start, drawn._prompt, drawn._first = fields["start"], fields["prompt"], fields["first"]
        drawn._wishes = seed, Sampling(**sampling), top_k
        drawn.resent = fields["resent"]
        drawn._tokens, drawn._scores = array("q", fields["tokens"]), array("f", fields["scores"])
        drawn._alternatives = [(tokens, scores) for tokens, scores in fields["alternatives"]]
        return drawn

    def fields(self) -> dict[str, Any]:
        """All of it as plain values."""
        seed, sampling, top_k = self._wishes
        return {
            "start": self._start,
            "prompt": self._prompt,
            "first": self._first,
            "wishes": (seed, asdict(sampling), top_k),
            "resent": self.resent,
            "tokens": self._tokens.tolist(),
            "scores": self._scores.tolist(),
            "alternatives": self._alternatives,
        }

    def add(self, token: Token) -> None:
        """Keeps one more; the oldest go when there are many."""
        self._tokens.append(token.token)
        self._scores.append(token.log_probability)
        if token.top_tokens:
            self._alternatives.append((token.top_tokens, token.top_log_probabilities))
        if len(self._tokens) >= 2 * MAX_DRAWN:
            self._first += MAX_DRAWN
            for kept in (self._tokens, self._scores, self._alternatives):
                del kept[:MAX_DRAWN]

    @property
    def _is_whole(self) -> bool:
        return self._first == self._start + len(self._prompt)

    def before(self, position: int) -> list[int]:
        """What was generated up to `position`, oldest first, as far as it is kept; an earlier call's tokens too."""
        return (self.resent if self._is_whole else []) + self._tokens[: position - self._first].tolist()

    def reaches(self, position: int) -> bool:
        """True if a client with the answers up to `position` can have the rest from here."""
        return self._first <= position or (position == self._start and self._is_whole)

    def asked_for(self, generation: Generation, seed: int, session_id: str) -> list[Token]:
        """What was drawn already of what this asks for: the same request again, or one that goes on among the tokens.

        Empty if it asks for something else, or for tokens that are not kept any more. Where it ends is for whoever asks
        to say: no token has a finish reason.
        """
        position = generation.position
        if position is None or _wishes(generation, seed) != self._wishes:
            return []
        if position == self._start and generation.tokens == self._prompt:
            position += len(self._prompt)
        elif generation.tokens:
            return []
        if not self._first <= position < self._first + len(self._tokens):
            return []
        return list(self._from(position - self._first, session_id))

    def _from(self, index: int, session_id: str) -> Iterator[Token]:
        for place in range(index, len(self._tokens)):
            tops, scores = self._alternatives[place] if self._alternatives else ([], [])
            yield Token(session_id, self._first + place + 1, self._tokens[place], self._scores[place], tops, scores)


def _wishes(generation: Generation, seed: int) -> tuple[int, Sampling, int]:
    """What must be the same for the same tokens to come."""
    return seed, generation.sampling, generation.top_k

"""Tokens that a client may ask for again after a lost connection."""

from typing import Any

import pytest

from conveyor.engine.drawn import MAX_DRAWN, Drawn
from conveyor.engine.work import Generation, Sampling, Token
from tests.engine.harness import ListSink

SINK = ListSink()


def drawn_of(num_tokens: int, *, start: int = 10, prompt: tuple[int, ...] = (1, 2), tops: bool = False) -> Drawn:
    """A generation of the tokens 0, 1, 2 and so on."""
    drawn = Drawn(start, Generation("a", list(prompt), 100, SINK, top_k=int(tops)), seed=1)
    for index in range(num_tokens):
        top = ([index], [-0.5]) if tops else ([], [])
        drawn.add(Token("a", start + len(prompt) + index + 1, index, -float(index), *top))
    return drawn


def asked(drawn: Drawn, position: int | None, tokens: tuple[int, ...] = (), **fields: Any) -> list[Token]:
    seed = fields.pop("seed", 1)
    return drawn.asked_for(Generation("a", list(tokens), 100, SINK, position=position, **fields), seed, "a")


def test_the_same_request_gets_all() -> None:
    """Tokens, scores and alternatives, as they were."""
    drawn = drawn_of(3, tops=True)

    assert asked(drawn, 10, (1, 2), top_k=1) == [
        Token("a", 13, 0, -0.0, [0], [-0.5]),
        Token("a", 14, 1, -1.0, [1], [-0.5]),
        Token("a", 15, 2, -2.0, [2], [-0.5]),
    ]


def test_who_has_some_gets_the_rest() -> None:
    """From any place among the tokens, without tokens of its own."""
    drawn = drawn_of(3)

    assert [[token.token for token in asked(drawn, position)] for position in (12, 13, 14)] == [[0, 1, 2], [1, 2], [2]]


def test_another_request_gets_nothing() -> None:
    """Another prompt, another place, no place at all, or one that is where the session is."""
    drawn = drawn_of(3)
    for position, tokens in ((10, (1, 3)), (10, ()), (11, ()), (13, (1,)), (15, ()), (16, ()), (9, (1, 2)), (None, ())):
        assert asked(drawn, position, tokens) == []


def test_other_wishes_get_nothing() -> None:
    """With another seed, another way of drawing or other alternatives, other tokens would have come."""
    drawn = drawn_of(3)
    for fields in ({"seed": 2}, {"sampling": Sampling(temperature=0.5)}, {"top_k": 1}):
        for position, tokens in ((10, (1, 2)), (13, ())):
            assert asked(drawn, position, tokens, **fields) == []
    assert asked(drawn, 13, sampling=Sampling(temperature=1.0))


def test_what_came_before_is_known() -> None:
    """For stop sequences that begin in it; the tokens of an earlier call are part of it, the prompt is not."""
    resent = Drawn(10, Generation("a", [1, 2, 3], 100, SINK, num_generated=2), seed=1)
    resent.add(Token("a", 14, 7, -1.0))

    assert [drawn_of(3).before(position) for position in (12, 13, 15)] == [[], [0], [0, 1, 2]]
    assert [resent.before(position) for position in (13, 14)] == [[2, 3], [2, 3, 7]]


def test_the_oldest_go() -> None:
    """A client is at most as far behind as what lay unread in its connection."""
    drawn = drawn_of(5 * MAX_DRAWN)
    last = 12 + 5 * MAX_DRAWN

    assert [token.token for token in asked(drawn, last - MAX_DRAWN)] == list(range(4 * MAX_DRAWN, 5 * MAX_DRAWN))
    assert len(drawn.before(last)) < 2 * MAX_DRAWN
    assert asked(drawn, 12) == asked(drawn, 10, (1, 2)) == []


@pytest.mark.parametrize("num_tokens", [1, 5, 2 * MAX_DRAWN - 1, 2 * MAX_DRAWN, 3 * MAX_DRAWN])
@pytest.mark.parametrize("prompt", [(), (1, 2)])
def test_what_it_reaches_it_gives(num_tokens: int, prompt: tuple[int, ...]) -> None:
    """A client is told that it can go on exactly where it would be given all that it misses."""
    drawn = drawn_of(num_tokens, prompt=prompt)
    first, end = 10 + len(prompt), 10 + len(prompt) + num_tokens
    for position in sorted({*range(20), *range(end - 3, end), end - MAX_DRAWN} & set(range(end))):
        found = asked(drawn, position) or asked(drawn, position, prompt)
        assert drawn.reaches(position) == bool(found), position
        if found:
            assert (found[0].position, found[-1].position) == (max(position, first) + 1, end)

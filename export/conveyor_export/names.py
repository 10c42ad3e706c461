"""Renames the people of a play, so that a model learns to take names from the text before it, not from memory.

A play's names are most of what an unseen play has that no other has: without this, a model that has learned the plays
by heart needs four bits for each character of an unseen speaker's name, and one for those that it knows.
"""

import random
import re
from collections import Counter
from collections.abc import Callable

from conveyor_export.corpus import Work

_WORD = re.compile(r"[A-Za-z]+")
_NUMERAL = re.compile(r"[IVXLC]+")
_START, _END = "^", "$"
_LEAST_LENGTH, _MOST_LENGTH = 3, 14
_LEAST_COUNT = 4  # a rarer word is no help in telling who speaks
_MOST_WORKS = 15  # a word of more works, such as Exeunt or Jove, belongs to the language
_MOST_DRAWS = 100  # only a collection with hardly any names needs so many
_MOST_LOWERCASE = 2  # misprints; "king" and "page" are words as well as speakers, and stay


class Names:
    """The proper names of each work of a collection, found by their capitals, and new names for them.

    A word is a name of a work if it occurs there with a capital at least four times, hardly ever without one in the
    whole collection, and in few of its works.
    """

    def __init__(self, works: list[Work]) -> None:
        counts = {work.title: _count_capitalised(work.text) for work in works}
        lowercase = Counter(word for work in works for word in _WORD.findall(work.text) if word.islower())
        num_works = Counter(word for count in counts.values() for word in count)

        def is_name(word: str, count: int) -> bool:
            is_proper = lowercase[word] <= _MOST_LOWERCASE and num_works[word] <= _MOST_WORKS
            return is_proper and count >= _LEAST_COUNT

        self._names = {
            title: sorted(word for word, num in count.items() if is_name(word, num)) for title, count in counts.items()
        }
        self._pool = sorted({name for names in self._names.values() for name in names})
        self._following = _followers(self._pool)

    def of(self, work: Work) -> list[str]:
        """The names of a work of the collection, in lower case, sorted."""
        return self._names[work.title]

    def rename(self, work: Work, share: float, rng: random.Random) -> Work:
        """The work with this share of its names replaced, each everywhere by the same new one, capitals kept."""
        taken, new_names = set(self.of(work)), dict[str, str]()
        for name in self.of(work):
            if rng.random() < share and (new_name := self._draw(taken, rng)):
                new_names[name] = new_name
                taken.add(new_name)
        return Work(work.title, _WORD.sub(_replacer(new_names), work.text))

    def _draw(self, taken: set[str], rng: random.Random) -> str | None:
        """A new name; None if none fits."""
        # Mostly made up: among a few hundred names a model knows its way by heart, and takes any other for a misprint.
        draws = (self._make_up(rng) if rng.random() < 0.75 else rng.choice(self._pool) for _ in range(_MOST_DRAWS))
        return next((name for name in draws if _LEAST_LENGTH < len(name) <= _MOST_LENGTH and name not in taken), None)

    def _make_up(self, rng: random.Random) -> str:
        """Letters that follow each other as in the collection's names: after one letter, or more often after two."""
        name = _START
        while not name.endswith(_END):
            name += rng.choice(self._following[name[-2:] if rng.random() < 0.7 else name[-1]])
        return name[1:-1]


def _followers(names: list[str]) -> dict[str, list[str]]:
    """What comes after each letter and each pair of letters, as often as it does; names begin and end with a mark."""
    following: dict[str, list[str]] = {}
    for name in names:
        marked = f"{_START}{name}{_END}"
        for place in range(1, len(marked)):
            for context in {marked[place - 1], marked[max(place - 2, 0) : place]}:
                following.setdefault(context, []).append(marked[place])
    return following


def _count_capitalised(text: str) -> Counter[str]:
    words = (word for word in _WORD.findall(text) if word[0].isupper() and not _NUMERAL.fullmatch(word))
    return Counter(word.lower() for word in words if len(word) >= _LEAST_LENGTH)


def _replacer(new_names: dict[str, str]) -> Callable[[re.Match[str]], str]:
    def replace(match: re.Match[str]) -> str:
        word = match[0]
        if word[0].islower() or (name := new_names.get(word.lower())) is None:
            return word
        return name.upper() if word.isupper() else name.capitalize()

    return replace

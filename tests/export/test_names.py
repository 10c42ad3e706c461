"""The names of a play, and new ones for them."""

import random
import re

import pytest

from conveyor_export.corpus import Work
from conveyor_export.names import Names

HAMLET = Work(
    "HAMLET",
    "Enter Horatio.\n\nHORATIO.\nWhere is the king, Horatio's king, my king?\n\n"
    "HORATIO.\nThe King is dead.\n\nKING.\nHoratio!\nThe King, the King! III. III. III. III.",
)
OTHELLO = Work("OTHELLO", "IAGO.\nI am Iago.\n\nIAGO.\nWhat, Iago?\n\nEMILIA.\nEmilia, and Emilia.\n\nEMILIA.\nSo.")


@pytest.fixture
def names() -> Names:
    return Names([HAMLET, OTHELLO])


def test_names_are_the_words_that_only_occur_with_a_capital(names: Names) -> None:
    """A role that is a word as well, a numeral and a rare word are no names."""
    assert names.of(HAMLET) == ["horatio"]
    assert names.of(OTHELLO) == ["emilia", "iago"]


def test_a_word_of_most_works_is_no_name() -> None:
    """What many plays share belongs to the language."""
    works = [Work(str(number), "Exeunt. " * 4 + f"Name{'abcdefghijklmnop'[number]} " * 4) for number in range(16)]

    assert Names(works).of(works[3]) == ["named"]


def test_each_name_becomes_one_other_everywhere(names: Names) -> None:
    """Speaker lines and mentions change together, in their own capitals; all else stays."""
    renamed = names.rename(HAMLET, 1.0, random.Random(0))
    new = re.findall(r"^([A-Z]+)\.$", renamed.text, re.MULTILINE)[0]

    assert new != "HORATIO"
    assert renamed == Work("HAMLET", HAMLET.text.replace("HORATIO", new).replace("Horatio", new.capitalize()))


def test_two_names_never_become_one(names: Names) -> None:
    """A new name is nobody else's of the play, neither old nor new."""
    for seed in range(200):
        speakers = re.findall(r"^([A-Z]+)\.$", names.rename(OTHELLO, 0.5, random.Random(seed)).text, re.MULTILINE)
        assert speakers[0] == speakers[1] != speakers[2] == speakers[3]


def test_share_and_generator_decide(names: Names) -> None:
    """No share changes nothing; the same generator gives the same names, the next ones are others."""
    rng = random.Random(3)

    assert names.rename(OTHELLO, 0.0, rng) == OTHELLO
    assert names.rename(OTHELLO, 1.0, random.Random(3)) == names.rename(OTHELLO, 1.0, random.Random(3))
    assert names.rename(OTHELLO, 1.0, rng) != names.rename(OTHELLO, 1.0, rng)

"""Text to token ids and back."""

from hypothesis import given
from hypothesis import strategies as st

from conveyor.signature import Vocabulary


def test_characters() -> None:
    """A character vocabulary has one token a character, and 0 for what it does not know."""
    vocabulary = Vocabulary(["?", "a", "b", "\n"])
    assert len(vocabulary) == 4
    assert vocabulary.encode("ab\nz") == [1, 2, 3, 0]
    assert vocabulary.decode([1, 2, 3, 0]) == "ab\n?"


def test_longest_match() -> None:
    """Text is cut greedily, longest entry first."""
    vocabulary = Vocabulary(["?", "a", "ab", "abc", "c"])
    assert vocabulary.encode("abcabac") == [3, 2, 1, 4]


def test_the_name_of_what_is_unknown_is_text_like_any_other() -> None:
    """Entry 0 is never read, so that every token 0 stands for one character."""
    vocabulary = Vocabulary(["<unk>", "u", "hello"])
    assert vocabulary.encode("<unk>hello") == [0, 1, 0, 0, 0, 2]


@given(st.lists(st.text(alphabet="abc", min_size=1, max_size=3), unique=True), st.text(alphabet="abc"))
def test_round_trip(entries: list[str], text: str) -> None:
    """Text of known characters comes back as it was."""
    symbols = ["?", *"abc", *(entry for entry in entries if len(entry) > 1)]
    vocabulary = Vocabulary(symbols)
    assert vocabulary.decode(vocabulary.encode(text)) == text

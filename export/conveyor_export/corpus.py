"""The training text, split by whole works so that a held-out play is a play the model has never seen."""

import lzma
import re
from dataclasses import dataclass
from pathlib import Path

_BYLINE = re.compile(r"^(?P<title>[A-Z][A-Z0-9 ,'\-]+)\n\nby William Shakespeare", re.MULTILINE)

VALIDATION_WORKS = ("MACBETH", "MUCH ADO ABOUT NOTHING")
TEST_WORKS = ("THE TEMPEST",)
# Of a text without titles, this share is cut from the end for validation, and as much again for the test.
HELD_OUT_SHARE = 0.05
# Each part held out needs two characters: the first is not scored.
_LEAST_LENGTH = 40


@dataclass(frozen=True, slots=True)
class Work:
    """One play or poem: its title as printed, and its text from the title on."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Split:
    """Works to learn from, to choose the best epoch by, and to report on."""

    training: list[Work]
    validation: list[Work]
    test: list[Work]


def read_text(path: Path) -> str:
    """Reads a UTF-8 text file, decompressing it when its name ends in `.xz`.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read.
    """
    try:
        data = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
    except lzma.LZMAError as error:
        raise OSError(f"{path}: {error}") from error
    return data.decode("utf-8").replace("\r\n", "\n")


def split_works(text: str) -> list[Work]:
    """Cuts a collection at each title that a byline follows; text with no byline is one untitled work."""
    starts = [(match.start(), match["title"]) for match in _BYLINE.finditer(text)]
    if not starts:
        return [Work("", text)]
    ends = [start for start, _ in starts[1:]] + [len(text)]
    return [Work(title, text[start:end]) for (start, title), end in zip(starts, ends, strict=True)]


def split_corpus(text: str) -> Split:
    """Holds the named plays out of a collection, or the end out of a text without titles.

    Raises:
        ValueError: a collection lacks a play that is to be held out, or a text is too short to hold any of it out.
    """
    works = split_works(text)
    if len(works) == 1:
        return _split_untitled(text)
    rest, validation = hold_out(works, VALIDATION_WORKS)
    training, test = hold_out(rest, TEST_WORKS)
    return Split(training, validation, test)


def hold_out(works: list[Work], titles: tuple[str, ...]) -> tuple[list[Work], list[Work]]:
    """Splits works into those kept and those whose title is named.

    Raises:
        ValueError: a title is not among the works.
    """
    missing = set(titles) - {work.title for work in works}
    if missing:
        raise ValueError(f"not in the corpus: {', '.join(sorted(missing))}")
    return [w for w in works if w.title not in titles], [w for w in works if w.title in titles]


def _split_untitled(text: str) -> Split:
    if len(text) < _LEAST_LENGTH:
        raise ValueError(f"corpus: too short: {len(text)} characters, {_LEAST_LENGTH} are the least")
    length = int(len(text) * HELD_OUT_SHARE)
    first, second = len(text) - 2 * length, len(text) - length
    return Split(
        [Work("the beginning", text[:first])],
        [Work("near the end", text[first:second])],
        [Work("the end", text[second:])],
    )

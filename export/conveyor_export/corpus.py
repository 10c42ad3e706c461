"""The Shakespeare corpus, split by whole works so that a held-out play is a play the model has never seen."""

import lzma
import re
from dataclasses import dataclass
from pathlib import Path

_BYLINE = re.compile(r"^(?P<title>[A-Z][A-Z0-9 ,'\-]+)\n\nby William Shakespeare", re.MULTILINE)

VALIDATION_WORKS = ("MACBETH", "MUCH ADO ABOUT NOTHING")
TEST_WORKS = ("THE TEMPEST",)


@dataclass(frozen=True, slots=True)
class Work:
    """One play or poem: its title as printed, and its text from the title on."""

    title: str
    text: str


def read_text(path: Path) -> str:
    """Reads a UTF-8 text file, decompressing it when its name ends in `.xz`."""
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8").read()
    return path.read_text(encoding="utf-8")


def split_works(text: str) -> list[Work]:
    """Cuts a collection at each title that a byline follows; text with no byline is one untitled work."""
    starts = [(match.start(), match["title"]) for match in _BYLINE.finditer(text)]
    if not starts:
        return [Work("", text)]
    ends = [start for start, _ in starts[1:]] + [len(text)]
    return [Work(title, text[start:end]) for (start, title), end in zip(starts, ends, strict=True)]


def hold_out(works: list[Work], titles: tuple[str, ...]) -> tuple[list[Work], list[Work]]:
    """Splits works into those kept and those whose title is named.

    Raises:
        ValueError: a title is not among the works.
    """
    missing = set(titles) - {work.title for work in works}
    if missing:
        raise ValueError(f"not in the corpus: {', '.join(sorted(missing))}")
    return [w for w in works if w.title not in titles], [w for w in works if w.title in titles]

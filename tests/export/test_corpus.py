"""The corpus is split by whole works, and held-out plays stay out."""

import lzma
from pathlib import Path

import pytest

from conveyor_export.corpus import TEST_WORKS, VALIDATION_WORKS, read_text, split_corpus, split_works

CORPUS = Path(__file__).parents[2] / "data" / "shakespeare.txt.xz"


def test_shipped_corpus_splits_into_its_works() -> None:
    """Every work is found whole, and the held-out plays are in no other part."""
    text = read_text(CORPUS)
    works, split = split_works(text), split_corpus(text)

    assert len(works) == 39
    assert text.endswith("".join(work.text for work in works))
    assert [work.title for work in split.validation] == list(VALIDATION_WORKS)
    assert [work.title for work in split.test] == list(TEST_WORKS)
    assert len(split.training) == 36
    training = "".join(work.text for work in split.training)
    assert len(training) == 4_444_268
    assert "Out, damned spot" not in training
    assert "We are such stuff" not in training
    assert all(name not in training for name in ("Lady Macbeth", "LADY MACBETH", "PROSPERO", "DOGBERRY"))


def test_text_without_titles_holds_out_its_end() -> None:
    """Any other text is cut in three, in order, with nothing lost."""
    text = "".join(chr(97 + number % 26) for number in range(1000))
    split = split_corpus(text)

    parts = [work.text for works in (split.training, split.validation, split.test) for work in works]
    assert "".join(parts) == text
    assert [len(part) for part in parts] == [900, 50, 50]


def test_collection_without_the_held_out_plays_is_refused() -> None:
    """A missing play is named, rather than trained without a validation."""
    text = "HAMLET\n\nby William Shakespeare\n\nWho's there?\n\nOTHELLO\n\nby William Shakespeare\n\nTush!"

    with pytest.raises(ValueError, match="not in the corpus: MACBETH, MUCH ADO"):
        split_corpus(text)


def test_text_too_short_to_hold_any_of_it_out_is_refused() -> None:
    """What is held out has a character to score: 40 characters are enough, and one fewer is told."""
    assert [len(work.text) for work in split_corpus("a" * 40).validation] == [2]
    with pytest.raises(ValueError, match="corpus: too short: 39 characters, 40 are the least"):
        split_corpus("a" * 39)


def test_reads_plain_and_compressed_text(tmp_path: Path) -> None:
    """A name that ends in .xz is decompressed; a broken one is an OSError."""
    (tmp_path / "a.txt").write_bytes("é\r\nb".encode())
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress("é\nb".encode()))
    (tmp_path / "b.xz").write_bytes(b"not compressed")

    assert read_text(tmp_path / "a.txt") == read_text(tmp_path / "a.txt.xz") == "é\nb"
    with pytest.raises(OSError, match=r"b\.xz"):
        read_text(tmp_path / "b.xz")

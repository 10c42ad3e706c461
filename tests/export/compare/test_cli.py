"""The `conveyor-compare` command on a small budget."""

import json
import re
from pathlib import Path

import pytest

from conveyor_export.compare.cli import DEFAULT_CELLS, main

SMALL = ["--budget", "2000", "--steps", "80", "--seeds", "2"]


def test_writes_tables_pictures_and_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder holds all that was compared, in the order in which it was asked for, and what was named twice once."""
    corpus, folder = tmp_path / "text.txt", tmp_path / "out"
    corpus.write_text("the belt carries state " * 100)
    cells, tasks = ["peephole_lstm", "essay_lstm"], ["timing", "text"]
    chosen = ["--cells", *cells, cells[0], "--tasks", *tasks, "--corpus", str(corpus), "--out", str(folder)]
    assert main([*chosen, *SMALL]) == 0

    assert f"{folder}/README.md" in capsys.readouterr().out
    results = json.loads((folder / "results.json").read_text())
    assert [(each["task"], each["cell"]) for each in results["outcomes"]] == [(t, c) for t in tasks for c in cells]
    assert {len(each["scores"]) for each in results["outcomes"]} == {2}
    assert [each["cell"] for each in results["costs"]] == cells
    assert all(each["step_seconds"]["64"] > each["step_seconds"]["1"] > 0 for each in results["costs"])
    assert all(each["state_bytes"] == 2 * 4 * each["width"] for each in results["costs"])
    report = (folder / "README.md").read_text()
    assert "--budget 2000 --steps 80 --seeds 2" in report
    assert [report.count(f"\n| {cell} |") for cell in cells] == [3, 4]
    assert re.search(r"\| essay_lstm (\| [\d,]+ ){4}\| 1.00 \| \d+ \| 1.00 \|", report)
    for picture in ("quality.png", "cost.png"):
        data = (folder / picture).read_bytes()
        assert data.startswith(b"\x89PNG")
        assert 5_000 < len(data) < 150_000


def test_a_corpus_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command fails with the path before it trains anything."""
    missing = tmp_path / "nothing.txt"
    assert main(["--corpus", str(missing), "--out", str(tmp_path / "out")]) == 1

    assert capsys.readouterr().err == f"conveyor-compare: [Errno 2] No such file or directory: '{missing}'\n"


def test_a_budget_that_is_too_small_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command names the architecture and what it has at least, before it trains another."""
    chosen = ["--cells", "elman", "rwkv7", "--tasks", "timing", "--budget", "1000", "--out", str(tmp_path)]
    assert main(chosen) == 1

    assert re.fullmatch(
        r"conveyor-compare: num_parameters: rwkv7 has 1,\d+ or more, got 1,000\n", capsys.readouterr().err
    )


def test_the_default_has_each_of_greffs_variants() -> None:
    """Vanilla and the eight that lack or change a part are there, and the essay's cells beside them."""
    greff = {"peephole_lstm", "nig", "nfg", "nog", "niaf", "noaf", "np", "cifg", "fgr"}
    assert greff | {"essay_lstm", "essay_gru", "elman", "mut1", "min_gru"} == set(DEFAULT_CELLS)

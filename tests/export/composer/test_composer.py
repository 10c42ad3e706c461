"""Chorales as rolls, and the demo that learns them, scores them and composes."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conveyor_export.composer.chorales import LOWEST_KEY, NUM_KEYS, Chorales, pad, roll_of
from conveyor_export.composer.command import main, run
from conveyor_export.composer.training import RECIPES


def test_a_key_is_held_in_each_quarter_at_whose_beginning_it_sounds() -> None:
    """A half note takes two steps; an eighth between two quarters takes none."""
    roll = roll_of([(0.0, 2.0, [60]), (0.5, 1.0, [62]), (2.0, 3.0, [64, 67])])

    held = [[LOWEST_KEY + int(key) for key in step.nonzero()] for step in roll]
    assert held == [[60], [60], [64, 67]]


def test_chorales_of_different_lengths_lie_side_by_side() -> None:
    """A mask tells the steps that are there."""
    x, there = pad([torch.ones(2, NUM_KEYS), torch.ones(3, NUM_KEYS)])

    assert x.shape == (3, 2, NUM_KEYS)
    assert there.tolist() == [[1, 1], [1, 1], [0, 1]]
    assert torch.equal(x.amax(2), there)


def test_the_demo_scores_and_composes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After two updates on a handful of rolls, two forms of each model are served, and give bounds and a picture."""
    torch.manual_seed(0)
    rolls = [(torch.rand(length, NUM_KEYS) < 0.1).float() for length in (5, 6, 7, 8)]

    for name, recipe in RECIPES.items():
        monkeypatch.setitem(RECIPES, name, replace(recipe, plan=replace(recipe.plan, num_updates=2)))

    run(Chorales(rolls, rolls[:3]), tmp_path)

    said = capsys.readouterr().out
    assert {path.parents[1].name for path in tmp_path.rglob("model.onnx")} == {
        *RECIPES,
        *(f"{name}_score" for name in RECIPES),
    }
    assert all(f"{name}: bound on 3 chorales that it never saw: -" in said for name in RECIPES)
    assert (tmp_path / "chorales.png").read_bytes().startswith(b"\x89PNG")


def test_the_corpus_has_to_be_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without music21 the command says what is missing, and trains nothing."""
    monkeypatch.setitem(sys.modules, "music21", None)

    assert main(["--out", str(tmp_path / "out")]) == 1

    assert "music21" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

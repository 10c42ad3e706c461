"""The demo that paints digits."""

import re
from pathlib import Path

import pytest
import torch

from conveyor_export.generative.digits import Digits
from conveyor_export.generative.paint_digits import main

SKLEARN = pytest.importorskip("sklearn", reason="scikit-learn ships the digits")


def test_bits_are_as_often_black_as_their_greys_are_dark() -> None:
    """White is never black, black always, and grey in between."""
    torch.manual_seed(0)
    greys = torch.tensor([0.0, 0.25, 1.0]).expand(4000, 1, 3)

    shares = Digits(greys, torch.zeros(4000, 1)).bits().mean((0, 1))

    assert shares[[0, 2]].tolist() == [0, 1]
    assert shares[1].item() == pytest.approx(0.25, abs=0.03)


def test_the_demo_paints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A few updates: both forms are served, and a bound and three pictures come of them."""
    assert main(["--out", str(tmp_path), "--updates", "2"]) == 0

    said = capsys.readouterr().out
    assert re.search(r"bound on 297 held-out digits: -\d+\.\d\d nats each", said)
    assert {path.parents[1].name for path in tmp_path.rglob("model.onnx")} == {"paint", "look"}
    for name in ("strokes", "painted", "looked"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")

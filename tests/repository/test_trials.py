"""Files are tried once, as long as nothing has changed that a trial depends on."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from conveyor.engine.trial import Bounds, Verdict
from conveyor.graph.errors import ModelError
from conveyor.graph.model_file import read_model
from conveyor.repository.trials import Trials
from tests.models import make_model, save_model

BOUNDS = Bounds(num_bytes=6 * 1024**3, seconds=60)
MARK = "of an earlier trial"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save_model(tmp_path / "lm" / "1", make_model()[0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "trials"


async def mark_kept(path: Path, folder: Path) -> None:
    """Has the file tried, and marks the verdict that is kept."""
    assert await Trials(BOUNDS, folder).verdict(path, 4) == Verdict(read_model(path).fingerprint)
    (kept,) = folder.iterdir()
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"alone_because": MARK}))


async def is_tried_again(path: Path, folder: Path, bounds: Bounds = BOUNDS, max_batch: int = 4) -> bool:
    """Whether another server with this folder tries the file."""
    verdict = await Trials(bounds, folder).verdict(path, max_batch)
    assert verdict is not None
    return verdict.alone_because != MARK


async def test_a_file_is_tried_once(path: Path, folder: Path) -> None:
    """The next server believes what is kept, wherever the file is by then, unless its own bounds are others."""
    await mark_kept(path, folder)

    assert not await is_tried_again(path, folder)
    moved = path.parent.rename(path.parent.with_name("2")) / path.name
    assert not await is_tried_again(moved, folder)
    assert await is_tried_again(moved, folder, max_batch=5)
    assert await is_tried_again(moved, folder, replace(BOUNDS, num_bytes=7 * 1024**3))


@pytest.mark.parametrize(
    "change",
    [
        lambda path: save_model(path.parent, make_model(seed=1)[0]),
        lambda path: path.with_name("signature.json").write_text(read_model(path).signature.to_json()),
        lambda path: path.with_name("weights.bin").write_bytes(b"0"),
        lambda path: os.utime(path, ns=(0, 0)),
    ],
    ids=["model", "signature", "weights", "time"],
)
async def test_what_has_changed_is_tried_anew(change: Callable[[Path], object], path: Path, folder: Path) -> None:
    """Be it the model itself, or what lies beside it."""
    await mark_kept(path, folder)
    change(path)

    assert await is_tried_again(path, folder)


async def test_what_failed_is_not_kept(path: Path, folder: Path) -> None:
    """It may have been the machine."""
    path.write_bytes(b"no model")

    for _ in range(2):
        with pytest.raises(ModelError, match=str(path)):
            await Trials(BOUNDS, folder).verdict(path, 4)
    assert not folder.exists()


async def test_a_verdict_that_cannot_be_read_is_none(path: Path, folder: Path) -> None:
    """The file is tried, and the verdict kept in its place."""
    await mark_kept(path, folder)
    (kept,) = folder.iterdir()
    kept.write_text("{")

    assert await is_tried_again(path, folder)
    assert json.loads(kept.read_text())["alone_because"] == ""


async def test_a_folder_that_cannot_be_written_does_no_harm(path: Path, tmp_path: Path) -> None:
    """The file is tried all the same."""
    (tmp_path / "state").touch()

    assert await Trials(BOUNDS, tmp_path / "state" / "trials").verdict(path, 4) is not None


async def test_no_time_means_no_trial(path: Path, folder: Path) -> None:
    """Whatever is in the folder."""
    await mark_kept(path, folder)

    assert await Trials(replace(BOUNDS, seconds=0), folder).verdict(path, 4) is None

"""Finding the models to load."""

from pathlib import Path

import pytest

from conveyor.graph.errors import ModelError
from conveyor.repository import Entry, find_models


def lay_out(folder: Path, *names: str) -> Path:
    """Makes empty files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_the_newest_version_of_each_model_is_found(tmp_path: Path) -> None:
    """Versions are numbers: 10 is newer than 9. Hidden folders and stray files are no models."""
    lay_out(tmp_path, "b/9/model.onnx", "b/10/model.onnx", "a/1/model.onnx", "..data/1/model.onnx", "README.md")

    assert find_models(tmp_path) == [
        Entry("a", 1, tmp_path / "a/1/model.onnx"),
        Entry("b", 10, tmp_path / "b/10/model.onnx"),
    ]


def test_a_file_is_a_model(tmp_path: Path) -> None:
    """It has its own name and version 1."""
    path = lay_out(tmp_path, "my-model.onnx") / "my-model.onnx"

    assert find_models(path) == [Entry("my-model", 1, path)]


@pytest.mark.parametrize(
    ("files", "path", "problem"),
    [
        ([], "none", "none: no such file or folder"),
        ([], "", "has no models; expected NAME/VERSION/model.onnx"),
        (["model.txt"], "model.txt", "not an .onnx file"),
        (["a/README"], "", "a: has no versions; expected a/1/model.onnx"),
        (["a/1/other.onnx"], "", "1: has no model.onnx"),
        (["a/v1/model.onnx"], "", "v1: a version is a whole number"),
        (["a/01/model.onnx"], "", "01: a version is a whole number"),
        (["a/0/model.onnx"], "", "0: a version is a whole number"),
        (["a b/1/model.onnx"], "", "a b: a model's name"),
        (["-a.onnx"], "-a.onnx", "-a.onnx: a model's name"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, files: list[str], path: str, problem: str) -> None:
    """The message names the path and the reason."""
    lay_out(tmp_path, *files)

    with pytest.raises(ModelError, match=str(tmp_path)) as raised:
        find_models(tmp_path / path)
    assert problem in str(raised.value)

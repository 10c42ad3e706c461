"""Reading the folder of models."""

import os
from pathlib import Path

import pytest

from conveyor.graph.errors import ModelError
from conveyor.repository.folder import Entry, read_folder


def lay_out(folder: Path, *names: str) -> Path:
    """Makes empty files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_every_version_of_each_model_is_found(tmp_path: Path) -> None:
    """Versions are numbers: 10 is newer than 9. Hidden folders and stray files are no models, nor is a folder to be."""
    lay_out(tmp_path, "b/9/model.onnx", "b/10/model.onnx", "a/1/model.onnx", "..data/1/model.onnx", "README.md")
    lay_out(tmp_path, "a/.2/model.onnx", "a/3/model.onnx.part")

    found = read_folder(tmp_path)

    assert {name: folder.entries for name, folder in found.items()} == {
        "a": (Entry("a", 1, tmp_path / "a/1/model.onnx"),),
        "b": (Entry("b", 9, tmp_path / "b/9/model.onnx"), Entry("b", 10, tmp_path / "b/10/model.onnx")),
    }
    assert not any(folder.problem for folder in found.values())


def test_a_file_is_a_model(tmp_path: Path) -> None:
    """It has its own name and version 1."""
    path = lay_out(tmp_path, "my-model.onnx") / "my-model.onnx"

    assert read_folder(path)["my-model"].entries == (Entry("my-model", 1, path),)


@pytest.mark.parametrize("name", ["a/1/model.onnx", "a/1/signature.json", "a/1/weights/0.bin", "a/conveyor.toml"])
def test_a_change_of_any_file_is_seen(tmp_path: Path, name: str) -> None:
    """Be it larger, or only written anew; a model whose files have stayed as they are is the same as before."""
    lay_out(tmp_path, "a/1/model.onnx", name, "b/1/model.onnx")
    before = read_folder(tmp_path)
    os.utime(tmp_path / name, ns=(1, 1))
    touched = read_folder(tmp_path)
    (tmp_path / name).write_text("x")
    os.utime(tmp_path / name, ns=(1, 1))
    grown = read_folder(tmp_path)

    assert before["a"] != touched["a"] != grown["a"]
    assert before["b"] == touched["b"] == grown["b"]


def test_a_change_of_a_lone_files_signature_is_seen(tmp_path: Path) -> None:
    """It lies beside the file."""
    path = lay_out(tmp_path, "a.onnx") / "a.onnx"
    before = read_folder(path)
    lay_out(tmp_path, "a.signature.json")

    assert read_folder(path) != before


@pytest.mark.parametrize(
    ("files", "path", "problem"),
    [
        ([], "none", "none: no such file or folder"),
        ([], "", "has no models; expected NAME/VERSION/model.onnx"),
        (["model.txt"], "model.txt", "not an .onnx file"),
        (["-a.onnx"], "-a.onnx", "-a.onnx: a model's name"),
    ],
)
def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path, files: list[str], path: str, problem: str) -> None:
    """The message names the path and the reason."""
    lay_out(tmp_path, *files)

    with pytest.raises(ModelError, match=str(tmp_path)) as raised:
        read_folder(tmp_path / path)
    assert problem in str(raised.value)


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("a/README", "a: has no versions; expected a/1/model.onnx"),
        ("a/1/other.onnx", "a: has no versions; expected a/1/model.onnx"),
        ("a/v1/model.onnx", "v1: a version is a whole number"),
        ("a/01/model.onnx", "01: a version is a whole number"),
        ("a/0/model.onnx", "0: a version is a whole number"),
        ("a b/1/model.onnx", "a b: a model's name"),
        ("conveyor.liveness/1/model.onnx", "starts with neither sign nor with 'conveyor.'"),
    ],
)
def test_a_model_that_cannot_be_used_is_told(tmp_path: Path, file: str, problem: str) -> None:
    """It is that model's problem alone."""
    lay_out(tmp_path, file, "good/1/model.onnx")

    good, bad = (read_folder(tmp_path)[name] for name in ("good", file.split("/")[0]))

    assert bad.problem.startswith(str(tmp_path))
    assert problem in bad.problem
    assert not good.problem

"""A model's own settings, and which versions they want."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from conveyor.engine.aliases import Alias
from conveyor.engine.limits import Device, Limits
from conveyor.graph.errors import ModelError
from conveyor.repository.model_settings import ModelSettings, read_settings

LIMITS, DEVICE = Limits(num_slots=8), Device("cpu", 3)


def read(folder: Path, text: str) -> ModelSettings:
    """The settings in a file of this text."""
    path = folder / "conveyor.toml"
    path.write_text(text)
    return read_settings(path, LIMITS, DEVICE)


def test_without_a_file_they_are_the_servers(tmp_path: Path) -> None:
    """And the latest version is wanted."""
    settings = read_settings(tmp_path / "conveyor.toml", LIMITS, DEVICE)

    assert (settings.limits, settings.device, settings.versions) == (LIMITS, DEVICE, "latest")


def test_what_the_file_says_goes_before_the_server(tmp_path: Path) -> None:
    """All else is as the server has it."""
    settings = read(
        tmp_path,
        "versions = [1, 3]\nmax_batch = 2\nidle_timeout = 5\nnum_threads = 1\n"
        "[aliases]\nstable = 3\ncanary = {version = 4, percent = 10}",
    )

    assert settings.limits == Limits(num_slots=8, max_batch=2, idle_timeout=5)
    assert settings.device == Device("cpu", 1)
    assert settings.versions == (1, 3)
    assert settings.aliases == {"stable": Alias(3), "canary": Alias(4, 10)}


@pytest.mark.parametrize(
    ("versions", "aliases", "there", "wanted"),
    [
        ("latest", {}, {1, 9, 10}, [[10, 9, 1]]),
        ("latest", {}, range(1, 5000), [[4999, 4998, 4997, 4996]]),
        ("all", {}, {1, 9, 10}, [[1], [9], [10]]),
        ((9, 1), {}, {1, 9, 10}, [[1], [9]]),
        ("latest", {"stable": 1}, {1, 9, 10}, [[1], [10, 9, 1]]),
        ((1,), {"stable": 1, "canary": 9}, {1, 9, 10}, [[1], [9]]),
        ((1, 2), {"stable": 3}, {1, 9}, [[1]]),
    ],
)
def test_versions_are_wanted_by_policy_and_by_alias(
    versions: Any, aliases: dict[str, int], there: Collection[int], wanted: list[list[int]]
) -> None:
    """What an alias leads to is wanted whatever else is; for the latest, those before it stand in."""
    named = {name: Alias(version) for name, version in aliases.items()}

    assert [list(each) for each in ModelSettings(LIMITS, DEVICE, versions, named).wanted(there)] == wanted


def test_versions_that_are_not_there_are_named(tmp_path: Path) -> None:
    """All of them, with what names them."""
    settings = read(tmp_path, "versions = [1, 2]\naliases = {stable = 3}")

    assert settings.missing({1}) == ["aliases.stable: there is no version 3", "versions: there is no version 2"]


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("versions", ["not TOML"]),
        pytest.param("versions = " + "[" * 10_000, ["not TOML"], id="nested"),
        ('versions = "newest"', ["""versions: must be "latest", "all" or a list of numbers from 1, got 'newest'"""]),
        ("versions = []", ["versions: must be"]),
        ("versions = [0]", ["versions: must be"]),
        ("versions = [true]", ["versions: must be"]),
        ("versions = 3", ["versions: must be"]),
        ("colour = 1\nnum_slots = 0", ["colour: is not a setting of a model", "num_slots: must be at least 1, got 0"]),
        ("num_slots = 1.5", ["num_slots: must be a whole number, got 1.5"]),
        ("idle_timeout = true", ["idle_timeout: must be a number of seconds, got True"]),
        ("idle_timeout = 1e9", ["idle_timeout: 1000000000.0 s is above max_idle_timeout"]),
        ('provider = "tpu"\ndevice_id = -1', ["provider: must be one of", "device_id: must be 0 to 1024, got -1"]),
        ("aliases = 1", ["aliases: must be a table, got 1"]),
        ('[aliases]\nstable = "3"', ["aliases: stable must be a version, or {version = N, percent = N}, got '3'"]),
        ("[aliases]\ncanary = {percent = 3}", ["aliases: canary must be a version"]),
        ("[aliases]\ncanary = {version = 3, share = 3}", ["aliases: canary must be a version"]),
        ("[aliases]\ncanary = {version = 3, percent = 101}", ["aliases: canary.percent must be 0 to 100, got 101"]),
        ("[aliases]\ncanary = {version = 3, percent = 0.5}", ["aliases: canary.percent must be 0 to 100, got 0.5"]),
        ("[aliases]\na = {version = 3, percent = 60}\nb = {version = 4, percent = 60}", ["120 percent together"]),
        ('[aliases]\n"a b" = 3', ["aliases: 'a b' is not of letters"]),
    ],
)
def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path, text: str, problems: list[str]) -> None:
    """In one line that begins with the file."""
    with pytest.raises(ModelError) as raised:
        read(tmp_path, text)

    message = str(raised.value)
    assert message.startswith(f"{tmp_path}/conveyor.toml: ")
    assert [problem for problem in problems if problem not in message] == []
    assert "\n" not in message

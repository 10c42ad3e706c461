"""How many cores a process may use."""

import os
from pathlib import Path

import pytest

from conveyor.engine import threads
from conveyor.engine.threads import available_cores, run_threads


@pytest.fixture
def affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may run on eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


@pytest.mark.usefixtures("affinity")
@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("350000 100000\n", 3),
        ("50000 100000\n", 1),
        ("9900000 100000\n", 8),
        ("", 8),
        ("nonsense\n", 8),
        ("much 100000\n", 8),
    ],
)
def test_a_quota_bounds_the_cores(tmp_path: Path, text: str, cores: int) -> None:
    """Whole cores of the quota count, at least one and at most the affinity's; an unreadable quota is none."""
    quota = tmp_path / "cpu.max"
    quota.write_text(text)

    assert available_cores(quota) == cores


@pytest.mark.usefixtures("affinity")
def test_no_quota_file(tmp_path: Path) -> None:
    """Where there is no quota, the affinity alone counts."""
    assert available_cores(tmp_path / "cpu.max") == 8


def test_one_core_is_left_for_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs take all cores but one, at least one; a setting is taken as it is."""
    for cores, expected in ((8, 7), (2, 1), (1, 1)):
        monkeypatch.setattr(threads, "available_cores", lambda cores=cores: cores)
        assert run_threads(0) == expected
    assert run_threads(5) == 5

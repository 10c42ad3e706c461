"""A small run of the whole: each torment once, and not a step lost, doubled or wrong."""

from pathlib import Path

import pytest
from chaos.__main__ import torment


@pytest.mark.timeout(300)  # half a minute on a quiet machine
def test_nothing_is_lost_doubled_or_wrong(tmp_path: Path) -> None:
    """Sessions of every durability come through one round of torments; the tally shows that they were at work."""
    report = torment(tmp_path, seed=1, seconds=0, num_sessions=60, num_replicas=2)

    assert not any(report.zeros.values()), f"\n{report}"
    assert len({torment.name for torment in report.tormentor.done}) == len(report.tormentor.done) == 7
    assert report.tally.num_answers > 10 * 60
    assert report.tally.num_generated > 0

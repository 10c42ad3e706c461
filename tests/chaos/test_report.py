"""The report excuses what a killed replica has taken with it, and nothing else."""

from dataclasses import replace
from pathlib import Path
from random import Random

from chaos.report import Report
from chaos.tally import Gone, Pause, Tally
from chaos.tormentor import KILLED, Torment, Tormentor
from chaos.trail import Entry

KILL = 100.0
EXCUSED = Gone("id", durability="none", last_answer=99.0, noticed=103.0, holder="", message="unknown session")
OPENED = "1970-01-01T00:01:38.000Z info    session opened session_id=id model=lm version=1\n"
DRAINED = "1970-01-01T00:01:39.000Z info    session closed session_id=id model=lm version=1 reason=drained\n"
RESUMED = "1970-01-01T00:01:39.500Z info    session resumed session_id=id position=5 epoch=2\n"
LATE = "1970-01-01T00:01:41.000Z info    session opened session_id=id model=lm version=1\n"


def report(tally: Tally, folder: Path = Path(), **logs: str) -> Report:
    """Of a run in which the replica `one` was killed."""
    tormentor = Tormentor(layout=None, loads=[], random=Random(0))  # type: ignore[arg-type] - it does nothing here
    tormentor.deeds.append(Entry(KILL, "one", KILLED))
    tormentor.done = [Torment("replica killed", KILL, KILL + 5), Torment("connections cut", KILL + 5, KILL + 7)]
    for name, text in logs.items():
        (folder / f"{name}.log").write_text(text)
    return Report(tally, tormentor, [folder / f"{name}.log" for name in logs])


def test_a_session_of_a_killed_replica_may_go(tmp_path: Path) -> None:
    """Durability NONE, with the replica that was killed, and nobody who has it after that: this is no failure."""
    tally = Tally(gone=[EXCUSED])

    assert not any(report(tally, tmp_path, one=OPENED).zeros.values())
    assert not any(report(tally, tmp_path, one=RESUMED, two=OPENED + DRAINED).zeros.values())


def test_no_other_session_may_go(tmp_path: Path) -> None:
    """One that is stored, that a replica still has, that went before the kill, or that the killed one did not have."""
    gone = [
        replace(EXCUSED, durability="sync"),
        replace(EXCUSED, holder="two"),
        replace(EXCUSED, noticed=KILL - 0.5),
    ]
    assert report(Tally(gone=gone), tmp_path, one=OPENED).zeros["sessions gone"] == len(gone)

    tally = Tally(gone=[EXCUSED])
    for logs in ({}, {"one": LATE}, {"two": OPENED}, {"one": OPENED + DRAINED}, {"one": OPENED, "two": RESUMED}):
        assert report(tally, tmp_path, **logs).zeros["sessions gone"] == 1, logs


def test_what_became_of_a_lost_session_is_told(tmp_path: Path) -> None:
    """All that the logs say of it, amid all that was done until it was gone, in order."""
    logs = {"one": OPENED + DRAINED, "two": RESUMED}

    told = str(report(Tally(gone=[EXCUSED]), tmp_path, **logs)).splitlines()[-5:]

    assert told[0].startswith("none session id: last answer at 00:01:39.0")
    assert [line.split()[1] for line in told[1:]] == ["one:", "one:", "two:", "one:"]
    assert told[-1] == "    00:01:40.000000 one: killed"


def test_tallies_add_up() -> None:
    """Counts and lists are joined; of differences the larger one stays; each count is judged by itself."""
    tally = Tally(num_lost=1, largest_difference=2.0, num_failed=1, gone=[EXCUSED])
    tally += Tally(num_lost=1, num_doubled=3, num_wrong=4, largest_difference=1.0, num_failed=2)

    assert tally.largest_difference == 2.0
    assert tally.gone == [EXCUSED]
    assert list(report(tally).zeros.values()) == [2, 3, 4, 1, 3]


def test_a_pause_belongs_to_the_first_torment_in_it() -> None:
    """One that began before a torment and ended after the next is the first one's; the longest of each is told."""
    long, short, late = Pause("", KILL - 1, KILL + 6), Pause("", KILL + 1, KILL + 2), Pause("", KILL + 5.5, KILL + 6)

    assert report(Tally(pauses=[long, short, late])).pauses == {"connections cut": late, "replica killed": long}

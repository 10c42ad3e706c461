"""The report excuses what a killed replica has taken with it, and nothing else."""

from dataclasses import replace
from random import Random

from chaos.report import Report
from chaos.tally import Gone, Pause, Tally
from chaos.tormentor import Torment, Tormentor

KILL = 100.0
EXCUSED = Gone("id", durability="none", last_answer=99.0, noticed=103.0, holder="", message="unknown session")


def report(tally: Tally) -> Report:
    """Of a run in which one replica was killed."""
    tormentor = Tormentor(layout=None, loads=[], random=Random(0))  # type: ignore[arg-type] - it does nothing here
    tormentor.kills.append(KILL)
    tormentor.done = [Torment("replica killed", KILL, KILL + 5), Torment("connections cut", KILL + 5, KILL + 7)]
    return Report(tally, tormentor)


def judge(tally: Tally) -> dict[str, int]:
    """The counts that must be 0."""
    return report(tally).zeros


def test_a_session_of_a_killed_replica_may_go() -> None:
    """Durability NONE, an answer before the kill, and nobody who has it after that: this is no failure."""
    assert not any(judge(Tally(gone=[EXCUSED])).values())


def test_no_other_session_may_go() -> None:
    """One that is stored, one that a replica still has, and one that went before the kill or opened after it."""
    gone = [
        replace(EXCUSED, durability="sync"),
        replace(EXCUSED, holder="replica-1"),
        replace(EXCUSED, noticed=KILL - 0.5),
        replace(EXCUSED, last_answer=KILL + 5, noticed=KILL + 6),
    ]

    assert judge(Tally(gone=gone))["sessions gone"] == len(gone)


def test_tallies_add_up() -> None:
    """Counts and lists are joined; of differences the larger one stays; each count is judged by itself."""
    tally = Tally(num_lost=1, largest_difference=2.0, num_failed=1, gone=[EXCUSED])
    tally += Tally(num_lost=1, num_doubled=3, num_wrong=4, largest_difference=1.0, num_failed=2)

    assert tally.largest_difference == 2.0
    assert tally.gone == [EXCUSED]
    assert list(judge(tally).values()) == [2, 3, 4, 0, 3]


def test_a_pause_belongs_to_the_first_torment_in_it() -> None:
    """One that began before a torment and ended after the next is the first one's; the longest of each is told."""
    long, short, late = Pause("", KILL - 1, KILL + 6), Pause("", KILL + 1, KILL + 2), Pause("", KILL + 5.5, KILL + 6)

    assert report(Tally(pauses=[long, short, late])).pauses == {"connections cut": late, "replica killed": long}

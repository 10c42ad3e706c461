"""The report excuses what a killed replica has taken with it, and nothing else."""

from dataclasses import replace
from random import Random

from chaos.report import Report
from chaos.tally import Gone, Tally
from chaos.tormentor import Tormentor

KILL = 100.0
EXCUSED = Gone("id", durability="none", last_answer=99.0, noticed=103.0, holder="", message="unknown session")


def judge(tally: Tally) -> dict[str, int]:
    """The counts that must be 0, after a run in which one replica was killed."""
    tormentor = Tormentor(layout=None, loads=[], random=Random(0))  # type: ignore[arg-type] - it does nothing here
    tormentor.kills.append(KILL)
    return Report(tally, tormentor).zeros


def test_a_session_of_a_killed_replica_may_go() -> None:
    """Durability NONE, an answer before the kill, and nobody who has it after that: this is no failure."""
    assert not any(judge(Tally(gone=[EXCUSED])).values())


def test_no_other_session_may_go() -> None:
    """One that is stored, one that a replica still has, and one that went before the kill or opened after it."""
    gone = [
        replace(EXCUSED, durability="sync"),
        replace(EXCUSED, holder="replica-1"),
        replace(EXCUSED, noticed=KILL - 1),
        replace(EXCUSED, last_answer=KILL + 5, noticed=KILL + 6),
    ]

    assert judge(Tally(gone=gone))["sessions gone"] == len(gone)


def test_tallies_add_up() -> None:
    """Counts and lists are joined; of differences and pauses the larger one stays; each count is judged by itself."""
    tally = Tally(num_lost=1, longest_pause=2.0, num_failed=1, gone=[EXCUSED])
    tally += Tally(num_lost=1, num_doubled=3, num_wrong=4, longest_pause=1.0, num_failed=2, notes=["a"])

    assert tally.longest_pause == 2.0
    assert list(judge(tally).values()) == [2, 3, 4, 0, 3]

"""What came of a run: the counts that must be 0, and those that are good to know."""

from collections.abc import Sequence

from chaos.tally import Gone, Pause, Tally
from chaos.tormentor import Tormentor

# A last answer may be read somewhat later than it was sent.
_LATE_SECONDS = 3.0


class Report:
    """Judges a tally by what the tormentor has done."""

    def __init__(self, tally: Tally, tormentor: Tormentor) -> None:
        self.tally = tally
        self.tormentor = tormentor
        self.killed = [gone for gone in tally.gone if _was_killed(gone, tormentor.kills)]
        self.lost = [gone for gone in tally.gone if gone not in self.killed]

    @property
    def zeros(self) -> dict[str, int]:
        """All that must be 0."""
        tally = self.tally
        return {
            "lost steps": tally.num_lost,
            "doubled steps": tally.num_doubled,
            "wrong answers": tally.num_wrong,
            "sessions gone": len(self.lost),
            "failed calls": tally.num_failed,
        }

    def __str__(self) -> str:
        tally, counters = self.tally, self.tormentor.counters
        lines = [f"{count:8}  {name}" for name, count in self.zeros.items()]
        lines += [
            f"{len(self.killed):8}  sessions of durability NONE gone with a killed replica",
            f"{tally.num_sessions:8}  sessions opened",
            f"{tally.num_answers:8}  answers checked, of {tally.num_steps} steps, {tally.num_generated} of them drawn",
            f"{tally.largest_difference:8.1e}  largest difference to the model run alone",
            f"{tally.num_replayed:8}  steps replayed",
            f"{tally.num_handovers:8}  sessions handed from client to client",
            f"{counters['conveyor_resumes_total']:8}  sessions taken from the store",
            f"{counters['conveyor_fencing_refusals_total']:8}  writes refused by an epoch",
            f"{tally.num_fenced:8}  answers refused by an epoch",
        ]
        lines += [
            f"{pause.seconds:8.1f}  seconds, the longest pause that a client saw with {name}: {pause.what}"
            for name, pause in sorted(self.pauses.items())
        ]
        return "\n".join([*lines, *map(str, self.lost), *tally.notes])

    @property
    def pauses(self) -> dict[str, Pause]:
        """The longest pause with each torment: with the first that went on during the pause."""
        longest: dict[str, Pause] = {}
        for pause in sorted(self.tally.pauses, key=lambda pause: pause.seconds):
            causes = [torment.name for torment in self.tormentor.done if torment.ended > pause.begun]
            longest |= dict.fromkeys(causes[:1], pause)
        return longest


def _was_killed(gone: Gone, kills: Sequence[float]) -> bool:
    is_excused = gone.durability == "none" and not gone.holder
    return is_excused and any(gone.last_answer - _LATE_SECONDS < kill < gone.noticed for kill in kills)

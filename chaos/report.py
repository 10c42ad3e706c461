"""What came of a run: the counts that must be 0, and those that are good to know."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from chaos.tally import Gone, Pause, Tally
from chaos.tormentor import KILLED, Tormentor
from chaos.trail import trails_of


class Report:
    """Judges a tally by what the tormentor has done, and by the replicas' logs."""

    def __init__(self, tally: Tally, tormentor: Tormentor, logs: Iterable[Path]) -> None:
        self.tally = tally
        self.tormentor = tormentor
        self._trails = trails_of((gone.session_id for gone in tally.gone), logs)
        self.killed = [gone for gone in tally.gone if self._was_killed(gone)]
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
        return "\n".join([*lines, *self._histories(), *tally.notes])

    @property
    def pauses(self) -> dict[str, Pause]:
        """The longest pause with each torment: with the first that went on during the pause."""
        longest: dict[str, Pause] = {}
        for pause in sorted(self.tally.pauses, key=lambda pause: pause.seconds):
            causes = [torment.name for torment in self.tormentor.done if torment.ended > pause.begun]
            longest |= dict.fromkeys(causes[:1], pause)
        return longest

    def _was_killed(self, gone: Gone) -> bool:
        """True if the replica that had it last, by its log, was killed since: it may be gone then."""
        home = self._trails[gone.session_id].home
        if gone.durability != "none" or gone.holder or home is None:
            return False
        deeds = [deed for deed in self.tormentor.deeds if deed.place == home.place and deed.event == KILLED]
        return any(home.time <= deed.time < gone.noticed for deed in deeds)

    def _histories(self) -> Iterator[str]:
        """Each session that was lost, with what the logs say of it amid all that was done."""
        for gone in self.lost:
            yield str(gone)
            deeds = [deed for deed in self.tormentor.deeds if deed.time <= gone.noticed]
            yield from (f"    {entry}" for entry in sorted([*deeds, *self._trails[gone.session_id].entries]))

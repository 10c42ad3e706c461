"""All that is counted and timed: plain numbers on the event loop, of which `collector.py` makes Prometheus's."""

from collections import Counter, defaultdict
from collections.abc import Mapping

from conveyor.engine.engines import Engines
from conveyor.engine.work import BatchRecord, EndReason
from conveyor.telemetry.histogram import Histogram
from conveyor.telemetry.tally import Tally

# Seconds, from a run of a small model to a call that waited for a long prefix.
SECONDS = tuple(base * 10.0**power for power in range(-5, 2) for base in (1.0, 2.5, 5.0))
SESSIONS = tuple(2.0**power for power in range(13))


class ModelMetrics:
    """What one model version did. This is its engine's `Observer`."""

    def __init__(self) -> None:
        self.load_seconds = 0.0
        self.num_opened = 0
        self.num_ended: Counter[EndReason] = Counter()
        self.num_steps = 0
        self.num_generated = 0
        self.num_failed_runs = 0
        self.num_spills = 0
        self.num_restores = 0
        self.num_resumed = 0
        self.num_fenced = 0
        self.num_checkpoints = 0
        self.checkpoint_bytes = 0
        self.num_failed_checkpoints = 0
        self.num_prefix_lookups = 0
        self.num_prefix_hits = 0
        self.num_prefix_tokens = 0
        self.num_refused: Counter[str] = Counter()
        self.batch_sessions = Histogram(SESSIONS)
        self.runs_of_size: dict[int, Tally] = defaultdict(Tally)  # by number of sessions
        self.run = Histogram(SECONDS)
        self.queue = Histogram(SECONDS)
        self.first_token = Histogram(SECONDS)
        self.inter_token = Histogram(SECONDS)

    def session_opened(self) -> None:
        """Counts a session."""
        self.num_opened += 1

    def session_ended(self, reason: EndReason) -> None:
        """Counts a session's end."""
        self.num_ended[reason] += 1

    def batch_ran(self, record: BatchRecord) -> None:
        """Takes a run's numbers."""
        self.num_steps += record.num_steps
        self.num_generated += record.num_generated
        self.batch_sessions.observe(record.num_sessions)
        self.runs_of_size[record.num_sessions].add(record.run_seconds)
        self.run.observe(record.run_seconds)
        self.queue.observe_all(record.queue_seconds)

    def run_failed(self) -> None:
        """Counts a run that raised."""
        self.num_failed_runs += 1

    def states_spilled(self, num_sessions: int) -> None:
        """Counts states that went to host memory."""
        self.num_spills += num_sessions

    def states_restored(self, num_sessions: int) -> None:
        """Counts states that came back."""
        self.num_restores += num_sessions

    def work_refused(self, reason: str) -> None:
        """Counts work that was refused for want of room."""
        self.num_refused[reason] += 1

    def prefix_sought(self, num_tokens: int) -> None:
        """Counts a prompt of which so many tokens were known."""
        self.num_prefix_lookups += 1
        self.num_prefix_hits += num_tokens > 0
        self.num_prefix_tokens += num_tokens

    def checkpoints_stored(self, num_checkpoints: int, num_bytes: int) -> None:
        """Counts checkpoints that the store has taken."""
        self.num_checkpoints += num_checkpoints
        self.checkpoint_bytes += num_bytes

    def checkpoints_failed(self, num_checkpoints: int) -> None:
        """Counts checkpoints that the store has not taken."""
        self.num_failed_checkpoints += num_checkpoints

    def session_fenced(self) -> None:
        """Counts a checkpoint that the store refused, because another server has the session."""
        self.num_fenced += 1

    def session_resumed(self) -> None:
        """Counts a session taken up from the store."""
        self.num_resumed += 1


class Metrics:
    """The numbers of one server. Its start sets `engines` and `problems`, the repository's; all else is counted."""

    def __init__(self) -> None:
        self.engines = Engines(())
        self.problems: Mapping[tuple[str, int], str] = {}
        self.models: dict[tuple[str, int], ModelMetrics] = defaultdict(ModelMetrics)
        self.requests: Counter[tuple[str, str]] = Counter()
        self.calls: Counter[str] = Counter()
        self.request_seconds: dict[str, Histogram] = defaultdict(lambda: Histogram(SECONDS))

    def of_model(self, name: str, version: int) -> ModelMetrics:
        """The numbers of one model version, from zero when it is new."""
        return self.models[name, version]

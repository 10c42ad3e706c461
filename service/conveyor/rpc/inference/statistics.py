"""What became of the requests of this protocol, and the message that tells of it."""

import time
from collections import defaultdict

from conveyor.engine.engine import Engine
from conveyor.inference import statistics_pb2
from conveyor.telemetry.metrics import Metrics
from conveyor.telemetry.tally import Tally

# The whole time of a request, and what it was spent on.
PARTS = ("success", "queue", "compute_input", "compute_infer", "compute_output")


class RequestTallies:
    """The requests to one model version, and where the time of those that succeeded went."""

    def __init__(self) -> None:
        self.fail = Tally()
        self.parts = {name: Tally() for name in PARTS}
        self.num_rows = 0
        self.last_success = 0.0  # Unix seconds

    def succeeded(self, num_rows: int, **seconds: float) -> None:
        """Takes a request that was answered, with the seconds of each of `PARTS`.

        All of it at once: clients rely on equal counts.
        """
        for name, tally in self.parts.items():
            tally.add(seconds[name])
        self.num_rows += num_rows
        self.last_success = time.time()


class Statistics:
    """The requests to each model; what ran is in the metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._tallies: dict[tuple[str, int], RequestTallies] = defaultdict(RequestTallies)

    def of(self, engine: Engine) -> RequestTallies:
        """The requests to one model version, from zero when it is new."""
        return self._tallies[engine.name, engine.version]

    def message(self, engine: Engine) -> statistics_pb2.ModelStatistics:
        """What a model did."""
        tallies = self.of(engine)
        sizes = sorted(self._metrics.of_model(engine.name, engine.version).runs_of_size.items())
        return statistics_pb2.ModelStatistics(
            name=engine.name,
            version=str(engine.version),
            last_inference=int(tallies.last_success * 1e3),
            inference_count=tallies.num_rows,
            execution_count=sum(runs.count for _, runs in sizes),
            inference_stats=statistics_pb2.InferStatistics(
                fail=_duration(tallies.fail), **{name: _duration(tally) for name, tally in tallies.parts.items()}
            ),
            batch_stats=[
                statistics_pb2.InferBatchStatistics(batch_size=size, compute_infer=_duration(runs))
                for size, runs in sizes
            ],
        )


def _duration(tally: Tally) -> statistics_pb2.StatisticDuration:
    return statistics_pb2.StatisticDuration(count=tally.count, ns=round(tally.seconds * 1e9))

"""What became of the requests of this protocol, and the message that tells of it."""

import time
from collections import defaultdict

from conveyor.engine.engine import Engine
from conveyor.inference import statistics_pb2
from conveyor.telemetry.metrics import Metrics, ModelMetrics
from conveyor.telemetry.tally import Tally


class RequestTallies:
    """The requests to one model version."""

    def __init__(self) -> None:
        self.success, self.fail = Tally(), Tally()
        self.compute_input, self.compute_output = Tally(), Tally()
        self.num_rows = 0
        self.last_success = 0.0  # Unix seconds

    def succeeded(self, seconds: float, num_rows: int) -> None:
        """Takes a request that was answered."""
        self.success.add(seconds)
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
        tallies, metrics = self.of(engine), self._metrics.of_model(engine.name, engine.version)
        return statistics_pb2.ModelStatistics(
            name=engine.name,
            version=str(engine.version),
            last_inference=int(tallies.last_success * 1e3),
            inference_count=tallies.num_rows,
            execution_count=metrics.run.count,
            inference_stats=_stats(tallies, metrics),
            batch_stats=[
                statistics_pb2.InferBatchStatistics(batch_size=size, compute_infer=_duration(runs.count, runs.seconds))
                for size, runs in sorted(metrics.runs_of_size.items())
            ],
        )


def _stats(tallies: RequestTallies, metrics: ModelMetrics) -> statistics_pb2.InferStatistics:
    # Of who shared a run, each waited for the whole of it.
    run_seconds = sum(size * runs.seconds for size, runs in metrics.runs_of_size.items())
    return statistics_pb2.InferStatistics(
        success=_duration(tallies.success.count, tallies.success.seconds),
        fail=_duration(tallies.fail.count, tallies.fail.seconds),
        queue=_duration(metrics.queue.count, metrics.queue.sum),
        compute_input=_duration(tallies.compute_input.count, tallies.compute_input.seconds),
        compute_infer=_duration(metrics.queue.count, run_seconds),
        compute_output=_duration(tallies.compute_output.count, tallies.compute_output.seconds),
    )


def _duration(count: int, seconds: float) -> statistics_pb2.StatisticDuration:
    return statistics_pb2.StatisticDuration(count=count, ns=round(seconds * 1e9))

"""Metrics in Prometheus's model, made when they are scraped. README.md lists them."""

import platform
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from conveyor import __version__
from conveyor.engine.limits import EngineStats
from conveyor.telemetry.metrics import Metrics, ModelMetrics

MODEL = ("model", "version")

COUNTERS: dict[str, tuple[str, Callable[[ModelMetrics], float]]] = {
    "sessions_opened": ("Sessions opened.", lambda model: model.num_opened),
    "steps": ("Steps run, those of generated tokens included.", lambda model: model.num_steps),
    "generated_tokens": ("Tokens sampled.", lambda model: model.num_generated),
    "failed_runs": ("Runs that raised; their sessions stayed as they were.", lambda model: model.num_failed_runs),
    "spills": ("States moved from the arena to host memory.", lambda model: model.num_spills),
    "restores": ("States moved back into the arena.", lambda model: model.num_restores),
    "prefix_lookups": ("Prompts sought in the prefix cache.", lambda model: model.num_prefix_lookups),
    "prefix_hits": ("Prompts that began with a text in it.", lambda model: model.num_prefix_hits),
    "prefix_tokens": ("Tokens of prompts that were not run again.", lambda model: model.num_prefix_tokens),
    "resumes": ("Sessions taken up from the store.", lambda model: model.num_resumed),
    "fencing_refusals": ("Sessions found to be another server's by now.", lambda model: model.num_fenced),
    "checkpoints": ("Checkpoints stored.", lambda model: model.num_checkpoints),
    "checkpoint_bytes": ("Size of the checkpoints stored.", lambda model: model.checkpoint_bytes),
    "failed_checkpoints": ("Checkpoints that the store did not take.", lambda model: model.num_failed_checkpoints),
}
HISTOGRAMS: dict[str, tuple[str, Callable[[ModelMetrics], Any]]] = {
    "batch_sessions": ("Sessions that advanced in one run.", lambda model: model.batch_sessions),
    "run_seconds": ("Time of one run of the model.", lambda model: model.run),
    "queue_seconds": ("Time from a chunk's acceptance to its first run.", lambda model: model.queue),
    "first_token_seconds": ("Time from a Generate call to its first token.", lambda model: model.first_token),
    "inter_token_seconds": ("Time between two tokens of a Generate call.", lambda model: model.inter_token),
}
GAUGES: dict[str, tuple[str, Callable[[EngineStats], float]]] = {
    "sessions": ("Open sessions.", lambda stats: stats.num_sessions),
    "resident_sessions": ("Sessions whose state is in the arena.", lambda stats: stats.num_resident),
    "spilled_sessions": ("Sessions whose state is in host memory.", lambda stats: stats.num_spilled),
    "arena_slots": ("Sessions that the arena holds at most.", lambda stats: stats.num_slots),
    "arena_free_slots": ("Slots of the arena that no session holds.", lambda stats: stats.num_free_slots),
    "arena_bytes": ("Size of the arena.", lambda stats: stats.arena_bytes),
    "spilled_bytes": ("Size of the states in host memory.", lambda stats: stats.spilled_bytes),
    "context_bytes": ("Size of the sessions' contexts in host memory.", lambda stats: stats.context_bytes),
    "waiting_chunks": ("Chunks and generations that have not finished.", lambda stats: stats.num_waiting),
    "prefix_cache_bytes": ("Size of the prefix cache.", lambda stats: stats.prefix_bytes),
    "durable_sessions": ("Open sessions with durability.", lambda stats: stats.num_durable),
    "unstored_steps": ("Steps of these that are in no checkpoint yet.", lambda stats: stats.num_unstored),
}


class MetricsCollector(Collector):
    """Reads `metrics` on its own thread through `call`, which runs a function there and returns what it returns."""

    def __init__(self, metrics: Metrics, call: Callable[[Callable[[], list[Metric]]], list[Metric]]) -> None:
        self._metrics = metrics
        self._call = call

    def collect(self) -> Iterable[Metric]:
        """Every metric, as it is now."""
        return self._call(lambda: list(self._families()))

    def _families(self) -> Iterator[Metric]:
        build = {"version": __version__, "python": platform.python_version()}
        yield InfoMetricFamily("conveyor_build", "The server's build.", value=build)
        yield from self._request_families()
        yield from self._model_families()
        yield from self._gauges()
        problems = GaugeMetricFamily("conveyor_model_problems", "1 for what cannot be served as wanted.", labels=MODEL)
        for name, version in self._metrics.problems:
            problems.add_metric((name, str(version)), 1)
        yield problems
        up = GaugeMetricFamily("conveyor_store_up", "1 while the store answers, or there is none.")
        up.add_metric((), float(self._metrics.engines.is_store_up))
        yield up

    def _request_families(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("conveyor_requests", "Calls that ended.", labels=("method", "code"))
        for labels, count in self._metrics.requests.items():
            requests.add_metric(labels, count)
        yield requests
        calls = GaugeMetricFamily("conveyor_calls", "Calls in progress.", labels=("method",))
        for method, count in self._metrics.calls.items():
            calls.add_metric((method,), count)
        yield calls
        seconds = HistogramMetricFamily("conveyor_request_seconds", "Time of one unary call.", labels=("method",))
        for method, histogram in self._metrics.request_seconds.items():
            seconds.add_metric((method,), histogram.buckets(), histogram.sum)
        yield seconds

    def _model_families(self) -> Iterator[Metric]:
        models = [((name, str(version)), model) for (name, version), model in self._metrics.models.items()]
        for name, (text, count) in COUNTERS.items():
            counter = CounterMetricFamily(f"conveyor_{name}", text, labels=MODEL)
            for labels, model in models:
                counter.add_metric(labels, count(model))
            yield counter
        for name, (text, histogram) in HISTOGRAMS.items():
            family = HistogramMetricFamily(f"conveyor_{name}", text, labels=MODEL)
            for labels, model in models:
                family.add_metric(labels, histogram(model).buckets(), histogram(model).sum)
            yield family
        ended = CounterMetricFamily("conveyor_sessions_ended", "Sessions ended.", labels=(*MODEL, "reason"))
        refused = CounterMetricFamily("conveyor_refused_work", "Work refused.", labels=(*MODEL, "reason"))
        load = GaugeMetricFamily("conveyor_model_load_seconds", "Time to load and warm up the model.", labels=MODEL)
        for labels, model in models:
            load.add_metric(labels, model.load_seconds)
            for reason, number in model.num_ended.items():
                ended.add_metric((*labels, reason.value), number)
            for cause, number in model.num_refused.items():
                refused.add_metric((*labels, cause), number)
        yield from (ended, refused, load)

    def _gauges(self) -> Iterator[Metric]:
        stats = [((engine.name, str(engine.version)), engine.stats()) for engine in self._metrics.engines.all()]
        for name, (text, value) in GAUGES.items():
            gauge = GaugeMetricFamily(f"conveyor_{name}", text, labels=MODEL)
            for labels, numbers in stats:
                gauge.add_metric(labels, value(numbers))
            yield gauge

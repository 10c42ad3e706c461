"""What an architecture costs when it is served: parameters, state, and the time of a step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter

from conveyor.engine.feeds import Feeds, Results
from conveyor.engine.limits import Device
from conveyor.engine.runner import Runner
from conveyor.engine.warm_up import warm_up_feeds
from conveyor.graph import ModelFile, model_from_proto
from conveyor_export.compare.budget import num_parameters
from conveyor_export.export import DEFAULT_OPSET
from conveyor_export.language_model import LanguageModel
from conveyor_export.metadata import write_metadata
from conveyor_export.tracing import trace

BATCHES = (1, 64)
NUM_ROUNDS = 20
_RUNS_A_ROUND = 30


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one model. `step_seconds` is the median time of a run of one step by its number of sessions."""

    cell: str
    width: int
    num_parameters: int
    state_bytes: int
    step_seconds: dict[int, float]


class _Stepper:
    """Sessions of a loaded model that step together, one thread, each asking for its best token."""

    def __init__(self, file: ModelFile) -> None:
        most = max(BATCHES)
        self._runner = Runner(file, 1 + 2 * most, Device("cpu", num_threads=1), max_batch=most)
        self._feeds = {batch: _there_and_back(file, batch) for batch in BATCHES}

    def measure(self, batch: int) -> list[float]:
        """Seconds of each of some runs."""
        seconds = []
        for number in range(_RUNS_A_ROUND):
            begun = perf_counter()
            self._runner.run(self._feeds[batch][number % 2], Results())
            seconds.append(perf_counter() - begun)
        return seconds


def measure_costs(models: Mapping[str, LanguageModel], on_round: Callable[[], object]) -> list[Cost]:
    """Steps every model in turn, round after round, so that a slow moment of the machine falls on all."""
    files = {cell: _model_file(model) for cell, model in models.items()}
    steppers = {cell: _Stepper(file) for cell, file in files.items()}
    seconds: dict[tuple[str, int], list[float]] = {(cell, batch): [] for cell in models for batch in BATCHES}
    for _ in range(NUM_ROUNDS):
        for (cell, batch), measured in seconds.items():
            measured += steppers[cell].measure(batch)
        on_round()
    return [
        Cost(
            cell,
            model.config.hidden_size,
            num_parameters(model),
            files[cell].signature.state_bytes,
            {batch: median(seconds[cell, batch]) for batch in BATCHES},
        )
        for cell, model in models.items()
    ]


def _model_file(model: LanguageModel) -> ModelFile:
    traced = trace(model.eval(), model.signature(), DEFAULT_OPSET)
    write_metadata(traced.model, traced.signature, None, {})
    return model_from_proto(traced.model)


def _there_and_back(file: ModelFile, batch: int) -> tuple[Feeds, Feeds]:
    """Runs from some slots to others, and from those to the first."""
    feeds = warm_up_feeds(file.signature, batch)
    feeds = replace(feeds, outputs=(), score=None, sample=None, read_slots=feeds.write_slots + batch)
    return feeds, replace(feeds, read_slots=feeds.write_slots, write_slots=feeds.read_slots)

"""The core and the runner of an engine, driven by hand: one run at a time, on a clock that the test sets."""

from collections import defaultdict
from typing import Any

import numpy as np
import onnx
import torch

from conveyor.engine.assembly import Assembly
from conveyor.engine.core import Core
from conveyor.engine.feeds import Results
from conveyor.engine.initialiser import Initialiser
from conveyor.engine.limits import Device, Limits, Provider
from conveyor.engine.prefixes import Prefixes
from conveyor.engine.runner import Runner
from conveyor.engine.scheduler import Batch
from conveyor.engine.work import Answer, Array, Chunk, EndReason, Generation, OpenOptions, Sampling, Token, Want
from conveyor.errors import ConveyorError
from conveyor.graph.model_file import ModelFile, model_from_proto

Outcome = Answer | Token | ConveyorError


PROVIDER: Provider = "cpu"  # where engines run; the tests of a GPU set it
RUNNERS: dict[tuple[Provider, str, int, int, bool], Runner] = {}


def runner_of(model: ModelFile, limits: Limits, *, is_padded: bool) -> Runner:
    """One runner for all engines of a model and size: quick, and its arenas are full of what others left behind."""
    num_rows = limits.num_rows
    key = PROVIDER, model.fingerprint, num_rows, limits.max_batch, is_padded
    if key not in RUNNERS:
        device = Device(PROVIDER, num_threads=1)
        RUNNERS[key] = Runner(model, num_rows, device, max_batch=limits.max_batch, is_padded=is_padded)
    return RUNNERS[key]


NOTHING = Want()


class ListSink:
    """Keeps what it is given, by tag."""

    stays = True

    def __init__(self) -> None:
        self.outcomes: dict[Any, list[Outcome]] = defaultdict(list)
        self.ends: list[tuple[str, EndReason, int]] = []
        self.num_flushes = 0

    def put(self, tag: Any, outcome: Outcome) -> None:
        self.outcomes[tag].append(outcome)

    def flush(self) -> None:
        self.num_flushes += 1

    def end(self, session_id: str, reason: EndReason, position: int) -> None:
        self.ends.append((session_id, reason, position))


class ManualEngine:
    """What `Engine` does without its thread and loop."""

    def __init__(self, proto: onnx.ModelProto, *, is_padded: bool = False, **limits: Any) -> None:
        self.model: ModelFile = model_from_proto(proto)
        self.limits = Limits(**{"num_slots": 4, "max_batch": 4, **limits})
        self.runner = runner_of(self.model, self.limits, is_padded=is_padded)
        graph = self.runner.graph
        self.sought: list[int] = []  # tokens found by each search of the prefix cache
        self.prefixes = Prefixes(
            self.model.signature, self.limits.prefix_cache_bytes, self.runner.read, self.sought.append
        )
        self.core = Core(
            self.model.signature,
            self.limits,
            self.runner.initial_rows(),
            self.prefixes,
            is_ragged=graph.is_ragged,
            max_run_steps=min(self.limits.max_run_steps, graph.max_steps or self.limits.max_run_steps),
            max_batch=self.limits.max_batch if graph.can_batch else 1,
        )
        self.initialiser = Initialiser(graph)
        self.sink = ListSink()
        self.now = 0.0
        self.batch_sizes: list[int] = []

    def open(self, session_id: str, contexts: dict[str, Array] | None = None, **options: Any) -> None:
        start = self.initialiser.start(contexts or {})
        self.core.table.open(OpenOptions(session_id=session_id, **options), self.now, start)

    def chunk(self, session_id: str, steps: Any, want: Want = NOTHING, **fields: Any) -> Chunk:
        inputs = {spec.name: np.asarray(steps, spec.dtype) for spec in self.model.signature.inputs}
        work = Chunk(session_id, inputs, want, fields.pop("sink", self.sink), **fields)
        self.core.accept(work, self.now)
        return work

    def generate(self, session_id: str, tokens: list[int], max_tokens: int, **fields: Any) -> Generation:
        work = Generation(session_id, list(tokens), max_tokens, self.sink, **fields)
        self.core.accept(work, self.now)
        return work

    def run(self, error: Exception | None = None) -> bool:
        """One run; with `error`, one that fails after it has written what it was to write."""
        formed = self.core.next_batch(self.now)
        if formed is None:
            self.deliver()
            return False
        self._complete(*formed, error)
        return True

    def run_two(self, error: Exception | None = None) -> None:
        """Two runs, of which the second was formed before the first, which ends in `error`, is over."""
        first, second = self.core.next_batch(self.now), self.core.next_batch(self.now)
        if first is not None:
            self._complete(*first, error)
        if second is not None:
            self._complete(*second)

    def _complete(self, batch: Batch, assembly: Assembly, error: Exception | None = None) -> None:
        self.batch_sizes.append(len(batch))
        results = Results()
        self.runner.run(assembly.feeds, results)
        if error is not None:
            results.error = error
            self.core.fail(batch, results, "0123")
        else:
            self.core.finish(batch, assembly, results, self.now)
            self.prefixes.keep()
        self.deliver()

    def run_all(self) -> None:
        while self.run():
            pass

    def deliver(self) -> None:
        outcomes, self.core.outbox.ready = self.core.outbox.ready, []
        for sink, tag, outcome in outcomes:
            sink.put(tag, outcome)
        self.core.ended.clear()

    def answer(self, tag: Any) -> Answer:
        """The only outcome of a tag, which must be an answer."""
        self.deliver()
        (outcome,) = self.sink.outcomes[tag]
        assert isinstance(outcome, Answer), outcome
        return outcome

    def tokens(self, tag: Any) -> list[int]:
        """What a generation has drawn."""
        return [outcome.token for outcome in self.sink.outcomes[tag] if isinstance(outcome, Token)]

    def num_used_slots(self) -> int:
        slots = self.core.residence.slots
        return slots.num_slots - slots.num_free


@torch.no_grad()
def alone(reference: Any, tokens: list[int]) -> np.ndarray:
    """Logits `[T, V]` of one session alone in PyTorch, from its initial state."""
    logits, _ = reference(torch.tensor(tokens)[:, None], reference.initial_states(1))
    return logits[:, 0].numpy()


GREEDY = Sampling(temperature=0.0)
LOGITS = Want(names=("logits",))

"""Runs the serving graph on one batch, then the heads on its logits. All state stays in the arenas."""

from collections.abc import Sequence
from math import isqrt
from time import perf_counter

from conveyor.engine.arena import ArenaStore, DeviceArenas, HostArenas
from conveyor.engine.assembly import from_layout
from conveyor.engine.binding import Binding, FixedBindings, FreeBinding
from conveyor.engine.buckets import bucket_sizes
from conveyor.engine.feeds import Feeds, Results
from conveyor.engine.head_sessions import Heads
from conveyor.engine.limits import Device
from conveyor.engine.ort import Placement, make_session, node_placement, report_nodes_off_cuda, resolve
from conveyor.engine.spilled import Rows
from conveyor.engine.threads import run_threads
from conveyor.engine.warm_up import warm_up_contexts, warm_up_feeds
from conveyor.graph.arena import Arena, Scatter, check_arena_size
from conveyor.graph.errors import ModelError
from conveyor.graph.model_file import ModelFile
from conveyor.graph.optional import without_optional
from conveyor.graph.serving import build_serving_graph

# On the CPU every batch size up to this has buffers of its own, as far as all their outputs together fit these bytes.
# For larger batches binding costs little beside the run.
EXACT_SIZES = 64
EXACT_BYTES = 4 << 20


class Runner:
    """A loaded model. `run` is called by one thread at a time, and on CUDA always by the same one.

    `num_rows` counts the arenas' rows, row 0 included. Single steps run in fixed buffers: if `is_padded`, for up to
    `max_batch` sessions, padded to the next of a few sizes; if not, for small batches only. None pads on CUDA alone.

    A model with optional outputs is loaded twice, on the same arenas: without them, for the runs that want none, and
    whole. `graph` is the whole one.
    """

    def __init__(
        self, model: ModelFile, num_rows: int, device: Device, *, max_batch: int = 1, is_padded: bool | None = None
    ) -> None:
        device = resolve(device)
        self.is_cuda = device.provider == "cuda"
        self.graph = build_serving_graph(model, num_rows=None, scatter=Scatter.ELEMENTS if self.is_cuda else Scatter.ND)
        lean = without_optional(self.graph)
        num_threads = run_threads(device.num_threads)
        self._session = make_session(lean.proto.SerializeToString(), device, num_threads)
        if self.is_cuda:
            report_nodes_off_cuda(self.placement())
        self._num_rows = num_rows
        self._specs = {spec.name: spec for spec in model.signature.outputs}
        self._optional = {name for name, spec in self._specs.items() if spec.is_optional}
        self._logits = model.signature.logits
        where = ("cuda", device.device_id) if self.is_cuda else ("cpu", 0)
        self._heads = Heads(self._logits.dtype, device) if self._logits else None
        is_padded = self.is_cuda if is_padded is None else is_padded
        sizes = self._fixed_sizes(max_batch, is_padded=is_padded)
        self._arena_rows = num_rows + (max(sizes) if is_padded else 0)
        self._arenas = self._make_arenas(self.graph.arenas, self._arena_rows, device)
        self._context_rows = num_rows + 2 * max_batch  # as `Core` counts them
        self._contexts = self._make_arenas(self.graph.contexts, self._context_rows, device)
        self._free = FreeBinding(self._session, lean, self._arenas, self._contexts, where)
        self._fixed = FixedBindings(self._session, lean, self._arenas, self._contexts, where, sizes, num_rows)
        self._whole = self._free
        if self._optional:
            session = make_session(self.graph.proto.SerializeToString(), device, num_threads)
            self._whole = FreeBinding(session, self.graph, self._arenas, self._contexts, where)

    def _fixed_sizes(self, max_batch: int, *, is_padded: bool) -> Sequence[int]:
        if not self.graph.can_batch:
            return (1,)
        if is_padded:
            return bucket_sizes(max_batch)
        step_bytes = max(1, sum(spec.num_bytes for spec in self._specs.values() if not spec.is_optional))
        return range(1, max(1, min(max_batch, EXACT_SIZES, isqrt(2 * EXACT_BYTES // step_bytes))) + 1)

    def _make_arenas(self, arenas: Sequence[Arena], num_rows: int, device: Device) -> ArenaStore:
        if not self.is_cuda:
            return HostArenas(arenas, num_rows)
        for arena in arenas:
            check_arena_size(arena, num_rows)
        return DeviceArenas(arenas, num_rows, device, Scatter.ELEMENTS)

    @property
    def arena_bytes(self) -> int:
        """Bytes of all arenas."""
        states = sum(arena.row_bytes for arena in self.graph.arenas)
        contexts = sum(arena.row_bytes for arena in self.graph.contexts)
        return self._arena_rows * states + self._context_rows * contexts

    def initial_rows(self) -> Rows:
        """The state of a new session, by arena, as far as no initialiser gives it."""
        return self.graph.state_rows({})

    def read_rows(self, slots: Sequence[int]) -> list[Rows]:
        """The states in these slots, by arena."""
        return self._arenas.read(slots)

    def placement(self) -> list[Placement]:
        """Where each node of the serving graph runs."""
        return node_placement(self._session)

    def warm_up(self, num_sessions: int) -> float:
        """Makes a step of so many sessions in slots that nobody has yet, every head included; returns its seconds.

        What a model cannot do shows here, before it serves, and the first client does not pay for first times. If there
        are optional outputs, a step with all of them comes first.

        Raises:
            ModelError: it cannot make a step.
        """
        results = Results()
        feeds = warm_up_feeds(self.graph.signature, num_sessions)
        feeds.contexts = [(1, self.graph.context_rows(warm_up_contexts(self.graph.signature)))]
        try:
            if self._optional:
                self.run(feeds, Results())
                feeds.outputs = tuple(name for name in feeds.outputs if name not in self._optional)
            self.run(feeds, results)
        except Exception as error:  # ONNX Runtime has a dozen kinds
            raise ModelError(f"the model cannot make a step: {str(error).splitlines()[0]}") from error
        return results.run_seconds

    def run(self, feeds: Feeds, results: Results) -> None:
        """Spills, restores, advances the batch and reads what was asked for, filling `results` as it goes.

        Raises:
            ValueError: a slot is outside the arenas: some providers would write elsewhere without a word.
        """
        started = perf_counter()
        self._check_slots(feeds)
        if feeds.spill_slots:
            results.spilled = self._arenas.read(feeds.spill_slots)
        if feeds.restores:
            slots, rows = zip(*feeds.restores, strict=True)
            self._arenas.write(slots, rows)
        if feeds.contexts:
            slots, rows = zip(*feeds.contexts, strict=True)
            self._contexts.write(slots, rows)
        is_lean = self._optional.isdisjoint(feeds.outputs)
        is_fixed = is_lean and feeds.num_steps == 1 and len(feeds.read_slots) <= self._fixed.max_batch
        binding: Binding = self._fixed if is_fixed else self._free if is_lean else self._whole
        outputs = binding.run(feeds, self._outputs_of(feeds))
        if self._heads and self._logits and self._logits.name in outputs:
            self._heads.run(feeds, outputs[self._logits.name], results)
        for name in feeds.outputs:
            array = outputs[name].numpy()
            # A fixed buffer on the host would be overwritten by the next run while this one's answers are made.
            results.outputs[name] = from_layout(array.copy() if is_fixed else array, self._specs[name])
        results.run_seconds = perf_counter() - started

    def read(self, slots: Sequence[int]) -> list[Rows]:
        """The states in these slots, which no run may be writing."""
        return self._arenas.read(slots)

    def _check_slots(self, feeds: Feeds) -> None:
        # Lists: NumPy's own min and max take longer for a lone session than all the rest of the checks.
        _check_range(feeds.read_slots.tolist() + feeds.write_slots.tolist(), self._num_rows)
        if feeds.context_slots is not None:
            _check_range(feeds.context_slots.tolist(), self._context_rows)

    def _outputs_of(self, feeds: Feeds) -> list[str]:
        names = list(feeds.outputs)
        if self._logits and (feeds.top or feeds.score or feeds.sample) and self._logits.name not in names:
            names.append(self._logits.name)
        return names


def _check_range(slots: list[int], num_rows: int) -> None:
    if min(slots) < 0 or max(slots) >= num_rows:
        raise ValueError(f"slot outside the arena of {num_rows} rows: {slots}")

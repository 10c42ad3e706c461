"""Holds a model to its signature: sessions that run together, and steps, must come out as they do alone."""

from collections.abc import Sequence

import numpy as np

from conveyor.engine.assembly import to_layout
from conveyor.engine.feeds import Feeds, Results
from conveyor.engine.runner import Runner
from conveyor.engine.warm_up import warm_up_contexts
from conveyor.engine.work import Array
from conveyor.graph.errors import ModelError
from conveyor.signature import Signature, TensorSpec

# What rounding may do in half precision. Where axes are mistaken, the difference is as large as the numbers.
RTOL, ATOL = 2e-2, 2e-3

Rows = dict[str, Array]
NUM_ROWS = 8  # that the checks write


class Agreement:
    """Two sessions of two random steps each, run in different ways. The runner's slots must be nobody's yet."""

    def __init__(self, runner: Runner, signature: Signature) -> None:
        self._runner, self._signature = runner, signature
        self._names = tuple(spec.name for spec in signature.outputs)
        rng = np.random.default_rng(0)
        self._steps = {spec.name: _random(rng, spec, signature) for spec in signature.timed}

    def check_steps(self) -> None:
        """Compares two steps in a run with one after the other.

        Raises:
            ModelError: they differ: the time axes are mistaken, or the model looks at later steps too.
        """
        if self._runner.graph.max_steps is None:
            first, second = self._run([0], 1, 5), self._run([0], 1, 6, read=5, start=1)
            whole = self._run([0], 2, 7)
            if name := self._difference(_after(first, second), whole, [6], [7]):
                raise ModelError(
                    f"steps that run together differ from the same alone in {name}: {_not_an_axis('time')}"
                )

    def alone_because(self) -> str:
        """Compares two sessions in a run with each by itself; why they have to be by themselves, "" if they do not.

        Raises:
            ModelError: without states there are no sessions, and rows that differ are of a sequence, not of a batch.
        """
        graph = self._runner.graph
        if not graph.can_batch or graph.batch_dependent_ops:
            return ""
        apart = self._run([0], 1, 1), self._run([1], 1, 2)
        try:
            together = self._run([0, 1], 1, 3)
        except ModelError as error:
            return str(error)
        name = self._difference(_beside(*apart), together, [1, 2], [3, 4])
        problem = f"sessions that run together differ from the same alone in {name}"
        if name and not self._signature.states:
            raise ModelError(f"{problem}: {_not_an_axis('batch')}")
        return problem if name else ""

    def _run(self, sessions: Sequence[int], num_steps: int, write: int, read: int = 0, start: int = 0) -> Rows:
        """`[T, B, ...]` outputs of some sessions' steps, from the state in slot `read` to slots from `write` on."""
        count = len(sessions)
        inputs = {
            spec.name: to_layout(self._steps[spec.name][start : start + num_steps, list(sessions)], spec)
            for spec in self._signature.timed
        }
        feeds = Feeds(
            num_steps,
            inputs,
            np.full(count, num_steps, np.int32),
            np.full(count, read, np.int64),
            np.arange(write, write + count),
            outputs=self._names,
            context_slots=np.ones(count, np.int64),
            restores=[(0, self._runner.initial_rows())],
            contexts=[(1, self._runner.graph.context_rows(warm_up_contexts(self._signature)))],
        )
        results = Results()
        try:
            self._runner.run(feeds, results)
        except Exception as error:  # ONNX Runtime has a dozen kinds
            problem = str(error).splitlines()[0]
            raise ModelError(f"the model cannot run {num_steps} steps of {count} sessions: {problem}") from error
        return {name: array.copy() for name, array in results.outputs.items()}

    def _difference(self, one: Rows, two: Rows, slots: list[int], others: list[int]) -> str:
        """The first output that differs, or the state; "" if nothing does."""
        rows = self._runner.read_rows([*slots, *others])
        pairs = [(name, one[name], two[name]) for name in self._names]
        for row, other in zip(rows[: len(slots)], rows[len(slots) :], strict=True):
            pairs += [("the state", row[name], other[name]) for name in row]
        differing = (
            name
            for name, left, right in pairs
            if not np.allclose(left, right, rtol=RTOL, atol=ATOL, equal_nan=left.dtype.kind == "f")
        )
        return next(differing, "")


def _not_an_axis(kind: str) -> str:
    return (
        f"the {kind} axes are not what they seem. If a step is a whole sequence, say how long: in the signature, "
        f"axis.{kind} is null then and shape has the length"
    )


def _random(rng: np.random.Generator, spec: TensorSpec, signature: Signature) -> Array:
    shape = (2, 2, *spec.shape)  # steps, sessions
    if np.dtype(spec.dtype).kind == "f":
        return rng.integers(-2, 3, shape).astype(spec.dtype)
    highest = 1 if spec.dtype == "bool" else signature.max_token or 0
    return rng.integers(0, highest + 1, shape).astype(spec.dtype)


def _beside(one: Rows, two: Rows) -> Rows:
    return {name: np.concatenate([one[name], two[name]], axis=1) for name in one}


def _after(one: Rows, two: Rows) -> Rows:
    return {name: np.concatenate([one[name], two[name]], axis=0) for name in one}

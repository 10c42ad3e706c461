"""What a session's contexts make of it, computed once, when it opens."""

from collections.abc import Mapping

import numpy as np

from conveyor.engine.limits import Device
from conveyor.engine.ort import make_session
from conveyor.engine.warm_up import warm_up_contexts
from conveyor.engine.work import Array, Start
from conveyor.errors import InvalidArgument
from conveyor.graph import ServingGraph
from conveyor.graph.errors import ModelError
from conveyor.signature import ContextSpec


class Initialiser:
    """Checks contexts, and computes first states and other contexts from them, on the CPU: a session is small.

    Raises:
        ModelError: ONNX Runtime cannot load the graph.
    """

    def __init__(self, graph: ServingGraph) -> None:
        self._graph, self._signature = graph, graph.signature
        self._session = None
        self._defaults: dict[str, Array] = {
            spec.name: np.array(spec.default, spec.dtype).reshape(spec.shape)
            for spec in self._signature.contexts
            if spec.default is not None
        }
        self._read: list[ContextSpec] = []  # of the given contexts, those that the graph looks at
        if graph.initialiser is not None:
            self._session = make_session(graph.initialiser.SerializeToString(), Device("cpu"), 1)
            names = {node.name for node in self._session.get_inputs()}
            self._read = [spec for spec in self._signature.given_contexts if spec.name in names]

    def check(self, contexts: Mapping[str, Array]) -> None:
        """Holds a client's contexts against the signature.

        Raises:
            InvalidArgument: one is missing, unknown, of the wrong form or not finite.
        """
        specs = {spec.name: spec for spec in self._signature.given_contexts}
        for name in contexts:
            if name not in specs:
                raise InvalidArgument(f"contexts[{name}]", f"the model takes {', '.join(specs) or 'no contexts'}")
        for spec in specs.values():
            if spec.name in contexts or spec.default is None:
                self._check(spec, contexts)

    def start(self, contexts: Mapping[str, Array]) -> Start:
        """The rows of a session with these contexts, which were checked. May be called from any thread."""
        if not self._signature.contexts:
            return Start()
        values = self._defaults | dict(contexts)
        if self._session is not None:
            feeds = {spec.name: _with_batch(spec, values[spec.name]) for spec in self._read}
            found = self._signature.initialisers
            results = self._session.run(list(found), feeds)
            values |= {spec.name: result for spec, result in zip(found.values(), results, strict=True)}
        initial = self._graph.state_rows(values) if self._session is not None else None
        return Start(self._graph.context_rows(values), initial)

    def warm_up(self) -> None:
        """Starts a session of zeros, or of last tokens, and throws it away.

        Raises:
            ModelError: the model cannot do it.
        """
        try:
            self.start(warm_up_contexts(self._signature))
        except Exception as error:  # ONNX Runtime has a dozen kinds
            raise ModelError(f"the model cannot start a session: {str(error).splitlines()[0]}") from error

    def _check(self, spec: ContextSpec, contexts: Mapping[str, Array]) -> None:
        field = f"contexts[{spec.name}]"
        array = contexts.get(spec.name)
        if array is None:
            raise InvalidArgument(field, "missing: the model needs it")
        if array.dtype != np.dtype(spec.dtype) or array.shape != spec.shape:
            expected, got = f"{spec.dtype} {list(spec.shape)}", f"{array.dtype} {list(array.shape)}"
            raise InvalidArgument(field, f"expected {expected}, got {got}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InvalidArgument(field, "has a NaN or an infinity")
        highest = None if spec.is_constant else self._signature.max_token
        if array.dtype.kind == "i" and highest is not None and not ((array >= 0) & (array <= highest)).all():
            raise InvalidArgument(field, f"has a number outside 0 to {highest}")


def _with_batch(spec: ContextSpec, array: Array) -> Array:
    return array if spec.axis.batch is None else np.expand_dims(array, spec.axis.batch)

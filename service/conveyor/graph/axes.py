"""Which axes of a foreign graph's tensors are batch and time, and which lengths it leaves open."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from conveyor.graph.tensors import BATCH_WORDS, TIME_WORDS, Dim, GraphTensor
from conveyor.signature import Axis


@dataclass(frozen=True, slots=True)
class Laid:
    """A tensor with its axes told apart. `open` are those of which neither role nor length is known."""

    tensor: GraphTensor
    axis: Axis
    doubt: str = ""

    @property
    def shape(self) -> list[int | None]:
        """Lengths per session and step; None where a person has to say one."""
        return [dim if isinstance(dim, int) else None for _, dim in self._others()]

    @property
    def open(self) -> list[int]:
        return [place for place, dim in self._others() if not isinstance(dim, int)]

    def _others(self) -> list[tuple[int, Dim]]:
        roles = (self.axis.batch, self.axis.time)
        return [(place, dim) for place, dim in enumerate(self.tensor.dims or ()) if place not in roles]


class Layout:
    """Follows symbols from tensor to tensor: states and inputs share the batch, and what steps alone have is time."""

    def __init__(
        self, states: Sequence[GraphTensor], inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor]
    ) -> None:
        self._streams = _symbols(inputs)
        self._results = _symbols(outputs)
        self._state_symbols = _symbols(states)
        self.states = [self._laid_state(state) for state in states]
        batches = {laid.tensor.dims[laid.axis.batch] for laid in self.states if _has_batch(laid)}  # type: ignore[index]
        self._batches = {symbol for symbol in batches if isinstance(symbol, str)}
        self._is_batched = any(map(_has_batch, self.states)) or not states
        if not states:
            self._batches = self._batches_of_stateless(inputs)
        self.inputs = [self._laid_input(tensor) for tensor in inputs]
        self._times = {laid.tensor.dims[laid.axis.time] for laid in self.inputs if laid.axis.time is not None}  # type: ignore[index]
        self.outputs = [self._laid_output(tensor) for tensor in outputs]

    def _batches_of_stateless(self, inputs: Sequence[GraphTensor]) -> set[str]:
        return {tensor.dims[0] for tensor in inputs if tensor.dims and isinstance(tensor.dims[0], str)}

    def _laid_state(self, state: GraphTensor) -> Laid:
        """A state has no time axis, so its only free axis is the batch axis."""
        free = _free(state)
        if len(free) > 1:
            shared = [place for place in free if state.dims and state.dims[place] in self._streams]
            named = [place for place in free if _is_word(state, place, BATCH_WORDS)]
            free = next((each for each in (named, shared) if len(each) == 1), [])
        return Laid(state, Axis(batch=free[0] if free else None))

    def _laid_input(self, tensor: GraphTensor) -> Laid:
        laid = self._by_symbols(tensor)
        needs_batch = self._is_batched and laid.axis.batch is None
        if needs_batch and len(laid.open) == 1:
            return replace(laid, axis=replace(laid.axis, batch=laid.open[0]))
        if needs_batch and laid.open:
            batch = laid.open[0]
            doubt = f"axis {batch} is taken for the batch axis, the first of several that have no length"
            return replace(laid, axis=replace(laid.axis, batch=batch), doubt=doubt)
        return laid

    def _by_symbols(self, tensor: GraphTensor) -> Laid:
        batch = next((p for p in _free(tensor) if (tensor.dims or ())[p] in self._batches), None)
        rest = [place for place in _free(tensor) if place != batch]
        if batch is None and self._is_batched:
            batch = next((place for place in rest if _is_word(tensor, place, BATCH_WORDS)), None)
        rest = [place for place in rest if place != batch]
        return Laid(tensor, Axis(batch, next((place for place in rest if self._is_time(tensor, place)), None)))

    def _is_time(self, tensor: GraphTensor, place: int) -> bool:
        symbol = (tensor.dims or ())[place]
        is_shared = symbol in self._streams and symbol in self._results and symbol not in self._state_symbols
        return isinstance(symbol, str) and (is_shared or symbol.lower() in TIME_WORDS)

    def _laid_output(self, tensor: GraphTensor) -> Laid:
        """Free axes that no symbol explains are the inputs' own: what they have and this one lacks, in their order."""
        free, dims = _free(tensor), tensor.dims or ()
        batch = next((p for p in free if dims[p] in self._batches), None)
        time = next((p for p in free if p != batch and dims[p] in self._times and dims[p] is not None), None)
        left = [place for place in free if place not in (batch, time)]
        wanted = [role for role in self._order() if (batch if role == "batch" else time) is None]
        for role, place in zip(wanted, left, strict=False):
            batch, time = (place, time) if role == "batch" else (batch, place)
        doubt = "batch and time axes are taken in the inputs' order" if len(wanted) > 1 and len(left) > 1 else ""
        return Laid(tensor, Axis(batch, time), doubt)

    def _order(self) -> list[str]:
        """Of the roles that the inputs have, which comes first."""
        axis = next((laid.axis for laid in self.inputs), Axis())
        places = [(place, role) for role, place in (("batch", axis.batch), ("time", axis.time)) if place is not None]
        return [role for _, role in sorted(places)]


def _has_batch(laid: Laid) -> bool:
    return laid.axis.batch is not None


def _free(tensor: GraphTensor) -> list[int]:
    return [place for place, dim in enumerate(tensor.dims or ()) if not isinstance(dim, int)]


def _symbols(tensors: Iterable[GraphTensor]) -> set[str]:
    return {dim for tensor in tensors for dim in tensor.dims or () if isinstance(dim, str)}


def _is_word(tensor: GraphTensor, place: int, words: set[str]) -> bool:
    symbol = (tensor.dims or ())[place]
    return isinstance(symbol, str) and symbol.lower() in words

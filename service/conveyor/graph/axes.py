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

    def symbol(self, place: int | None) -> str | None:
        """What the graph calls the length of an axis."""
        dim = self.tensor.dims[place] if self.tensor.dims and place is not None else None
        return dim if isinstance(dim, str) else None

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
        self._is_batched = any(laid.axis.batch is not None for laid in self.states) or not states
        firsts = [Laid(tensor, Axis(batch=0)) for tensor in inputs if not states and tensor.dims]
        self._batches = _known(laid.symbol(laid.axis.batch) for laid in (*self.states, *firsts))
        self.inputs = [self._laid_input(tensor) for tensor in inputs]
        self._times = _known(laid.symbol(laid.axis.time) for laid in self.inputs)
        self.outputs = [self._laid_output(tensor) for tensor in outputs]

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
        time = next((p for p in free if p != batch and dims[p] in self._times), None)
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


def _known(symbols: Iterable[str | None]) -> set[str]:
    return {symbol for symbol in symbols if symbol is not None}


def _free(tensor: GraphTensor) -> list[int]:
    return [place for place, dim in enumerate(tensor.dims or ()) if not isinstance(dim, int)]


def _symbols(tensors: Iterable[GraphTensor]) -> set[str]:
    return {dim for tensor in tensors for dim in tensor.dims or () if isinstance(dim, str)}


def _is_word(tensor: GraphTensor, place: int, words: set[str]) -> bool:
    symbol = (tensor.dims or ())[place]
    return isinstance(symbol, str) and symbol.lower() in words

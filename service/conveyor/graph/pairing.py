"""Which input of a graph is a state, and which output replaces it. Never by the order of anything."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from conveyor.graph.errors import ModelError
from conveyor.graph.flow import Flow
from conveyor.graph.names import new_stems, old_stems, tells_of_memory
from conveyor.graph.tensors import GraphTensor

MAX_NAMED = 6  # pairs in a message
NEVER = 9  # more than any two names are apart that have something in common
Tensors = Mapping[str, GraphTensor]


@dataclass(frozen=True, slots=True)
class Pair:
    """A state and its successor. Unless it `is_certain`, a person has to look at it; `why` says what speaks for it."""

    state: str
    output: str
    why: str
    is_certain: bool = True

    def __str__(self) -> str:
        return f"{self.state} -> {self.output}"


def find_pairs(
    inputs: Tensors, outputs: Tensors, flow: Flow, given: Mapping[str, str], valued: Collection[str] = ()
) -> list[Pair]:
    """The states, in the order of the graph's inputs. `given` has those that a person has named.

    Inputs that are `valued` in the graph are its weights, unless a recurrent operator begins with them.

    Raises:
        ModelError: two pairings fit, or one that was given does not; the message names them.
    """
    pairs = [_given_pair(state, output, inputs, outputs) for state, output in given.items()]
    fed = _without(inputs, valued)
    for evidence, known in ((_by_structure, inputs), (_by_name, fed)):
        left = _without(known, [pair.state for pair in pairs]), _without(outputs, [pair.output for pair in pairs])
        pairs += _agreed(evidence(*left, flow))
    pairs = _leaving_a_stream(pairs, fed, given) if pairs else _by_elimination(fed, outputs, flow)
    places = list(inputs)
    return sorted(pairs, key=lambda pair: places.index(pair.state))


def _given_pair(state: str, output: str, inputs: Tensors, outputs: Tensors) -> Pair:
    if state not in inputs or output not in outputs:
        kind, name, known = ("input", state, inputs) if state not in inputs else ("output", output, outputs)
        raise ModelError(f"state {state} -> {output}: no {kind} is named {name}; there is {', '.join(known)}")
    if not inputs[state].fits(outputs[output]):
        raise ModelError(f"state {state} -> {output}: they differ in dtype or shape")
    return Pair(state, output, "it was named")


def _without(tensors: Tensors, names: Iterable[str]) -> Tensors:
    gone = set(names)
    return {name: tensor for name, tensor in tensors.items() if name not in gone}


def _fitting(inputs: Tensors, outputs: Tensors, flow: Flow) -> list[tuple[str, str]]:
    """What could be a pair: alike, and the new one computed from the old one."""
    sources = {output: flow.sources(output) for output in outputs}
    return [(i, o) for i in inputs for o in outputs if inputs[i].fits(outputs[o]) and i in sources[o] and i != o]


def _by_structure(inputs: Tensors, outputs: Tensors, flow: Flow) -> list[Pair]:
    found = []
    starts = {name: flow.starts(name) for name in inputs}
    ends = {name: flow.ends(name) for name in outputs}
    for state, output in _fitting(inputs, outputs, flow):
        if shared := starts[state] & ends[output]:
            found.append(Pair(state, output, f"first and last state of the same {flow.op_types(shared)}"))
    return _closest(found)


def _by_name(inputs: Tensors, outputs: Tensors, flow: Flow) -> list[Pair]:
    pairs = [Pair(i, o, "their names and shapes", tells_of_memory(i, o)) for i, o in _fitting(inputs, outputs, flow)]
    return _closest([pair for pair in pairs if _distance(pair) < NEVER])


def _closest(pairs: list[Pair]) -> list[Pair]:
    """Of each state's pairs those with the closest names: `h_0` belongs to `h_0_out`, not to `h_out` beside it."""
    least: dict[str, int] = {}
    for pair in pairs:
        least[pair.state] = min(_distance(pair), least.get(pair.state, NEVER))
    return [pair for pair in pairs if _distance(pair) == least[pair.state]]


def _distance(pair: Pair) -> int:
    """How much had to be taken off both names before they were the same."""
    olds, news = old_stems(pair.state), new_stems(pair.output)
    return min((a + b for a, old in enumerate(olds) for b, new in enumerate(news) if old == new), default=NEVER)


def _by_elimination(inputs: Tensors, outputs: Tensors, flow: Flow) -> list[Pair]:
    """If one pair alone is alike, it may be a state; one that would leave nothing to stream is none."""
    streams = [name for name, tensor in inputs.items() if tensor.dims != ()]
    fitting = [pair for pair in _fitting(inputs, outputs, flow) if pair[0] in streams]
    if len(streams) < 2 or not fitting:
        return []
    if len(fitting) > 1:
        _refuse([Pair(*pair, "") for pair in fitting])
    return [Pair(*fitting[0], "they alone are alike", is_certain=False)]


def _agreed(pairs: list[Pair]) -> list[Pair]:
    """Refuses pairs that share an input or an output: the graph does not say which one holds."""
    for pair in pairs:
        rivals = [other for other in pairs if other.state == pair.state or other.output == pair.output]
        if len(rivals) > 1:
            _refuse(rivals)
    return pairs


def _leaving_a_stream(pairs: list[Pair], inputs: Tensors, given: Mapping[str, str]) -> list[Pair]:
    """A model whose every input has a like-named output is fed through one of them; nobody knows which."""
    is_fed = any(tensor.dims != () for name, tensor in inputs.items() if name not in {pair.state for pair in pairs})
    if is_fed:
        return pairs
    found = [pair for pair in pairs if pair.state not in given]
    doubtful = [pair for pair in found if not pair.is_certain] or found
    if len(doubtful) != 1 or doubtful == pairs:
        _refuse(doubtful or pairs)
    return [pair for pair in pairs if pair not in doubtful]


def _refuse(pairs: list[Pair]) -> None:
    named = " and ".join(map(str, pairs[:MAX_NAMED]))
    if len(pairs) > MAX_NAMED:
        named += f" and {len(pairs) - MAX_NAMED} more"
    advice = "`conveyor inspect --write --state IN=OUT` takes your word"
    raise ModelError(f"states: {named} fit, and the graph does not say which are states: {advice}")

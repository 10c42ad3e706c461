"""Proposes a signature for a graph that has none, says why, and asks where the graph leaves something open."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnx import ModelProto, numpy_helper

from conveyor.graph.axes import Laid, Layout
from conveyor.graph.constants import compared_values, table_length
from conveyor.graph.errors import ModelError
from conveyor.graph.flow import Flow
from conveyor.graph.pairing import Pair, find_pairs
from conveyor.graph.tensors import GraphTensor, graph_tensors
from conveyor.signature import Axis, Signature
from conveyor.signature.signature import FORMAT

Draft = dict[str, Any]


@dataclass(slots=True)
class Proposal:
    """`draft` is a signature's JSON, with null where only a person knows; `decisions` say what was taken for what.

    Each of the `questions` has to be settled before the model can be served: what is missing, and what was guessed.
    """

    draft: Draft
    decisions: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)

    @property
    def json(self) -> str:
        """What `signature.json` is to hold, or to be completed from."""
        return json.dumps(self.draft, indent=1)

    def signature(self) -> Signature:
        """The signature, if nothing is open.

        Raises:
            ModelError: with every question, or a tensor that no signature can have.
        """
        if self.questions:
            raise ModelError(
                f"no signature, and the graph leaves open: {'; '.join(self.questions)}. "
                "Write what is known with `conveyor inspect --write`, and complete it"
            )
        try:
            return Signature.from_json(self.json)
        except ValueError as error:
            raise ModelError(f"no signature, and none can be proposed: {error}") from error


def propose(proto: ModelProto, given: Mapping[str, str] | None = None) -> Proposal:
    """Reads the roles off the graph. `given` has the states, and their outputs, that a person has named.

    Raises:
        ModelError: two pairings of states and outputs fit, or a given one does not.
    """
    inputs, outputs = graph_tensors(proto)
    flow, valued = Flow(proto), {tensor.name for tensor in proto.graph.initializer}
    pairs = find_pairs(inputs, outputs, flow, given or {}, valued)
    taken = {pair.state for pair in pairs}, {pair.output for pair in pairs}
    streams = [tensor for name, tensor in inputs.items() if name not in taken[0] | valued]
    constants = [tensor for tensor in streams if tensor.dims == () and len(streams) > 1]
    streams = [tensor for tensor in streams if tensor not in constants]
    results = [tensor for name, tensor in outputs.items() if name not in taken[1]]
    states = [inputs[pair.state].merged(outputs[pair.output]) for pair in pairs]
    return _Drafter(proto, flow, Layout(states, streams, results)).draft(pairs, constants)


class _Drafter:
    """Writes the draft of one graph, and what there is to say about it."""

    def __init__(self, proto: ModelProto, flow: Flow, layout: Layout) -> None:
        self._proto, self._flow, self._layout = proto, flow, layout
        self._proposal = Proposal({"format": FORMAT})

    def draft(self, pairs: Sequence[Pair], constants: Sequence[GraphTensor]) -> Proposal:
        proposal, layout = self._proposal, self._layout
        inputs = [self._tensor("input", laid) for laid in layout.inputs]
        states = [self._state(pair, laid) for pair, laid in zip(pairs, layout.states, strict=True)]
        if not pairs:
            proposal.decisions.append("no states: each step stands alone")
        max_token = self._max_token()
        outputs = [self._output(laid, max_token) for laid in layout.outputs]
        self._check_time()
        contexts = [self._constant(tensor) for tensor in constants]
        proposal.draft |= {"inputs": inputs, "states": states, "outputs": outputs, "contexts": contexts, "noises": []}
        proposal.draft |= {"max_token": max_token, "fixed_steps": None}
        return proposal

    def _tensor(self, role: str, laid: Laid) -> Draft:
        name, axis = laid.tensor.name, laid.axis
        places = (("batch", axis.batch), ("time", axis.time))
        where = [f"{kind} axis {place}" for kind, place in places if place is not None]
        self._proposal.decisions.append(f"{role} {name}: {', '.join(where) or 'no batch or time axis'}")
        if laid.doubt:
            self._ask(f"{role} {name}: {laid.doubt}")
        if laid.tensor.dims is None:
            self._ask(f"{role} {name}: its axes, which the graph does not declare")
        for place in laid.open:
            self._ask(f"{role} {name}: the length of axis {place}")
        shape = None if laid.tensor.dims is None else laid.shape
        return {"name": name, "dtype": laid.tensor.dtype, "shape": shape, "axis": _axis(axis)}

    def _state(self, pair: Pair, laid: Laid) -> Draft:
        raw = self._tensor("state", laid)
        self._proposal.decisions.append(f"state {pair}: {pair.why}")
        if not pair.is_certain:
            self._ask(f"state {pair}: whether it is one; {pair.why} speak for it")
        return raw | {"output": pair.output, "initial": self._initial(pair.state), "initialiser": ""}

    def _initial(self, name: str) -> list[float] | None:
        """What the graph has the state begin with if nobody feeds it."""
        found = next((tensor for tensor in self._proto.graph.initializer if tensor.name == name), None)
        if found is None:
            return None
        self._proposal.decisions.append(f"state {name}: begins with what the graph has for it")
        try:
            values: list[float] = numpy_helper.to_array(found).ravel().tolist()
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"state {name}: its value in the graph cannot be read: {error}") from error
        return values

    def _output(self, laid: Laid, max_token: int | None) -> Draft:
        raw = self._tensor("output", laid)
        maker = self._flow.maker(laid.tensor.name)
        is_float = laid.tensor.dtype in ("float16", "float32")
        # After a softmax they are probabilities, of which the logarithm would have to be taken first.
        is_raw = maker is not None and maker.op_type != "Softmax"
        num_tokens = 0 if max_token is None else max_token + 1
        is_logits = bool(num_tokens) and laid.shape == [num_tokens] and is_float and is_raw
        if is_logits:
            self._proposal.decisions.append(f"output {laid.tensor.name}: scores each of {num_tokens} tokens")
        return raw | {"is_logits": is_logits, "is_optional": False}

    def _constant(self, tensor: GraphTensor) -> Draft:
        """A scalar beside the stream: the same at every step."""
        values = sorted(compared_values(self._proto.graph, tensor.name))
        known = f"; the graph compares it with {', '.join(map(str, values))}" if values else ""
        self._ask(f"constant {tensor.name}: its value{known}")
        self._proposal.decisions.append(f"constant {tensor.name}: a scalar, the same at every step")
        raw = {"name": tensor.name, "dtype": tensor.dtype, "shape": [], "axis": _axis(Axis())}
        return raw | {"initialiser": "", "default": values if len(values) == 1 else [None]}

    def _check_time(self) -> None:
        timeless = [laid.tensor.name for laid in self._layout.outputs if laid.axis.time is None]
        if timeless and any(laid.axis.time is not None for laid in self._layout.inputs):
            names = ", ".join(timeless)
            self._ask(
                f"fixed_steps: 1 if a run takes one step, since {names} has no time axis, though the inputs have one"
            )

    def _max_token(self) -> int | None:
        """The last row of the table that tokens are looked up in."""
        inputs = self._layout.inputs
        whole = [laid.tensor.name for laid in inputs if laid.tensor.dtype.startswith("int")]
        lengths = [table_length(self._proto.graph, name) for name in whole]
        known = [length for length in lengths if length]
        if known and len(known) == len(whole):
            self._proposal.decisions.append(f"tokens: 0 to {min(known) - 1}, the rows of their table")
            return min(known) - 1
        if len(inputs) == 1 and inputs[0].tensor.dtype == "int64" and inputs[0].shape == []:
            self._ask(f"max_token: the largest number that {whole[0]} may have")
        return None

    def _ask(self, question: str) -> None:
        self._proposal.questions.append(question)


def _axis(axis: Axis) -> Draft:
    return {"batch": axis.batch, "time": axis.time}

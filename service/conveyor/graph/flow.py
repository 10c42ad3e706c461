"""Where a graph's recurrent nodes get their first states from, and which outputs get their last ones."""

from collections.abc import Callable, Iterator

from onnx import ModelProto, NodeProto, helper

from conveyor.graph.checks import captured_names, subgraphs
from conveyor.graph.ragged import RECURRENT

# An end of a recurrent node: the node's index in the graph, and which of its states.
Port = tuple[int, int]

FIRST_STATE = 5  # place of `initial_h` among the inputs; its last value is output 1
# These move a state's numbers, and leave them as they are.
MOVES = {
    *("Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze"),
    *("Transpose", "Unsqueeze"),
}


class Flow:
    """The data flow of a graph."""

    def __init__(self, proto: ModelProto) -> None:
        self._nodes = list(proto.graph.node)
        self._makers = {name: node for node in self._nodes for name in node.output if name}
        self._entries: dict[str, set[Port]] = {}  # first states: tensor -> ports
        self._exits: dict[str, set[Port]] = {}
        for index, node in enumerate(self._nodes):
            for state, (entry, end) in enumerate(_ends(node)):
                if not entry or not end:
                    continue
                self._entries.setdefault(entry, set()).add((index, state))
                self._exits.setdefault(end, set()).add((index, state))

    def starts(self, name: str) -> set[Port]:
        """The states of recurrent nodes that begin with (parts of) this input."""
        return {port for entry, ports in self._entries.items() if name in self._moved(entry) for port in ports}

    def ends(self, name: str) -> set[Port]:
        """The states of recurrent nodes that this output has (among others) at their end."""
        return {port for tensor in self._moved(name) for port in self._exits.get(tensor, ())}

    def op_types(self, ports: set[Port]) -> str:
        """The operators of these ports, for a person."""
        return ", ".join(sorted({self._nodes[index].op_type for index, _ in ports}))

    def sources(self, name: str) -> set[str]:
        """Every tensor that this one depends on, itself included."""
        return self._back(name, _reads)

    def consumers(self, name: str) -> Iterator[NodeProto]:
        """The nodes that read this tensor."""
        return (node for node in self._nodes if name in _reads(node))

    def maker(self, name: str) -> NodeProto | None:
        """The node that computes this tensor."""
        return self._makers.get(name)

    def _moved(self, name: str) -> set[str]:
        """The tensors whose numbers this one has, moved at most."""
        return self._back(name, _moved_inputs)

    def _back(self, name: str, inputs: Callable[[NodeProto], list[str]]) -> set[str]:
        seen, front = {name}, [name]
        while front:
            node = self._makers.get(front.pop())
            new = (set(inputs(node)) if node else set()) - seen - {""}
            seen |= new
            front.extend(new)
        return seen


def _reads(node: NodeProto) -> list[str]:
    return [*node.input, *(name for graph in subgraphs(node) for name in captured_names(graph))]


def _moved_inputs(node: NodeProto) -> list[str]:
    if node.op_type not in MOVES:
        return []
    return list(node.input) if node.op_type == "Concat" else list(node.input[:1])


def _ends(node: NodeProto) -> list[tuple[str, str]]:
    """For each state of a recurrent node: the tensor that it starts with, and the one that it leaves."""
    inputs, outputs = list(node.input), list(node.output)
    if node.op_type in RECURRENT:
        pairs = zip(inputs[FIRST_STATE : FIRST_STATE + 2], outputs[1:3], strict=False)
    elif node.op_type == "Scan":
        num_scanned = next((helper.get_attribute_value(a) for a in node.attribute if a.name == "num_scan_inputs"), 0)
        pairs = zip(inputs[: len(inputs) - num_scanned], outputs, strict=False)
    elif node.op_type == "Loop":
        pairs = zip(inputs[2:], outputs, strict=False)
    else:
        return []
    return list(pairs)

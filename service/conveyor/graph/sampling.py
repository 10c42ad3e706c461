"""The graph that draws a token from each row of logits. Shapes: N rows, vocabulary V, K candidates.

Almost nothing is sorted, since sorting costs more than all else here. A row without `top_k` and `top_p` inverts its
cumulative distribution in the order of ids. Else only as many tokens are sorted as the cuts can leave: `top_k`, or
those with at least half of `(1 - top_p) / V` of the probability; all others together have less than half of
`1 - top_p`.

Every sum runs along its own row in a fixed order, so a row's token does not depend on the other rows, to the last bit.
"""

from onnx import TensorProto

from conveyor.graph.builder import GraphBuilder

# CUDA's CumSum adds up from the start for every element, so long rows are summed in blocks of this length.
SUM_BLOCK = 128

# What (logit - best logit) is divided by where the temperature is 0: the best become e**0, all others e**-infinity. Not
# smaller, since float32 below 1.2e-38 is slow everywhere and 0 on some devices.
GREEDY_TEMPERATURE = 1e-37


def add_pick(graph: GraphBuilder, values: str, indices: str, output: str | None = None) -> str:
    """`values[i, indices[i]]` for every row i."""
    last = graph.constant([1])
    picked = graph.add("GatherElements", [values, graph.add("Unsqueeze", [indices, last])], axis=1)
    return graph.add("Squeeze", [picked, last], output)


def add_penalty(graph: GraphBuilder, logits: str) -> str:
    """Divides positive and multiplies negative logits of the tokens in `recent` by `penalty`, each token once."""
    zero, one = graph.constant(0), graph.constant(1, "float32")
    # Padding writes what one of the row's own tokens gets, so that no two writes to one place are at odds.
    largest = graph.add("ReduceMax", ["recent", graph.constant([1])])
    is_padding = graph.add("Less", ["recent", zero])
    tokens = graph.add("Max", [graph.add("Where", [is_padding, largest, "recent"]), zero])
    penalty = graph.add("Where", [graph.add("Less", [largest, zero]), one, _add_column(graph, "penalty")])
    values = graph.add("GatherElements", [logits, tokens], axis=1)
    is_positive = graph.add("Greater", [values, graph.constant(0, "float32")])
    divided, multiplied = graph.add("Div", [values, penalty]), graph.add("Mul", [values, penalty])
    values = graph.add("Where", [is_positive, divided, multiplied])
    return graph.add("ScatterElements", [logits, tokens, values], axis=1)


def add_draw(graph: GraphBuilder, logits: str, output: str) -> None:
    """Draws from the penalised logits `[N, V]`."""
    half, zero = graph.constant(0.5, "float32"), graph.constant(0, "float32")
    is_greedy = graph.add("Equal", ["temperature", zero])
    weights = _add_weights(graph, logits, is_greedy)
    sums = _add_sums(graph, weights)
    total = graph.add("Gather", [sums, graph.constant([-1])], axis=1)
    mass = graph.add("Mul", [total, _add_column(graph, "uniform")])
    # The best tokens weigh 1 each: the first sum above a half is the lowest id among them.
    mass = graph.add("Where", [_add_column(graph, is_greedy), half, mass])
    # Should `uniform` be 1 all the same: the last token that weighs anything is the first to reach the total.
    last = _add_count(graph, graph.add("Less", [sums, total]))
    unsorted = graph.add("Min", [_add_count(graph, graph.add("LessOrEqual", [sums, mass])), last])

    is_cut = graph.add("Or", [_add_has_top_k(graph), graph.add("Less", ["top_p", graph.constant(1, "float32")])])
    is_cut = graph.add("And", [is_cut, graph.add("Not", [is_greedy])])
    num_kept = graph.add("Where", [is_cut, _add_num_kept(graph, weights, total), graph.constant(1)])
    graph.add("Where", [is_cut, _add_cut_draw(graph, logits, weights, total, num_kept), unsorted], output)


def _add_column(graph: GraphBuilder, name: str) -> str:
    return graph.add("Unsqueeze", [name, graph.constant([1])])


def _add_has_top_k(graph: GraphBuilder) -> str:
    return graph.add("Greater", ["top_k", graph.constant(0)])


def _add_count(graph: GraphBuilder, flags: str) -> str:
    """True flags of each row: int64 `[N]`."""
    flags = graph.add("Cast", [flags], to=TensorProto.FLOAT)
    return graph.add("Cast", [graph.add("ReduceSum", [flags, graph.constant([1])], keepdims=0)], to=TensorProto.INT64)


def _add_weights(graph: GraphBuilder, logits: str, is_greedy: str) -> str:
    """Unnormalised probabilities `[N, V]`; the best token's is 1."""
    greedy = graph.constant(GREEDY_TEMPERATURE, "float32")
    temperature = _add_column(graph, graph.add("Where", [is_greedy, greedy, "temperature"]))
    best = graph.add("ReduceMax", [logits, graph.constant([1])], keepdims=1)
    return graph.add("Exp", [graph.add("Div", [graph.add("Sub", [logits, best]), temperature])])


def _add_sums(graph: GraphBuilder, weights: str) -> str:
    """Running sums along rows that are padded with zeros to whole blocks.

    They never fall: a block starts from exactly the sum that the block before it ends with.
    """
    block, axis = graph.constant([SUM_BLOCK]), graph.constant(2)
    missing = graph.add("Mod", [graph.add("Neg", ["vocabulary_size"]), block])
    pads = graph.add("Concat", [graph.constant([0, 0, 0]), missing], axis=0)
    padded = graph.add("Pad", [weights, pads])
    blocks = graph.add("Reshape", [padded, graph.constant([0, -1, SUM_BLOCK])])
    inner = graph.add("CumSum", [blocks, axis])
    totals = graph.add("Gather", [inner, graph.constant([-1])], axis=2)
    starts = graph.add("CumSum", [totals, graph.constant(1)], exclusive=1)
    return graph.add("Reshape", [graph.add("Add", [starts, inner]), graph.constant([0, -1])])


def _add_num_kept(graph: GraphBuilder, weights: str, total: str) -> str:
    """How many of the best tokens the cuts can leave at most: `[N]`."""
    size = graph.add("Cast", ["vocabulary_size"], to=TensorProto.FLOAT)
    tail = graph.add("Sub", [graph.constant(1, "float32"), _add_column(graph, "top_p")])
    share = graph.add("Div", [graph.add("Mul", [tail, graph.constant(0.5, "float32")]), size])
    is_weighty = graph.add("GreaterOrEqual", [weights, graph.add("Mul", [share, total])])
    counted = graph.add("Max", [_add_count(graph, is_weighty), graph.constant(1)])
    return graph.add("Where", [_add_has_top_k(graph), graph.add("Min", ["top_k", "vocabulary_size"]), counted])


def _add_cut_draw(graph: GraphBuilder, logits: str, weights: str, total: str, num_kept: str) -> str:
    """Draws from the best tokens, best first, that both cuts leave."""
    zero, axis = graph.constant(0, "float32"), graph.constant(1)
    num_candidates = graph.add("ReduceMax", [num_kept, graph.constant([0])], keepdims=1)
    graph.add_many("TopK", [logits, num_candidates], ["best_logits", "best_tokens"], axis=1)
    size = graph.add("Squeeze", [num_candidates, graph.constant([0])])
    ranks = graph.add("Range", [graph.constant(0), size, axis])
    is_kept = graph.add("Less", [ranks, _add_column(graph, num_kept)])
    best = graph.add("Where", [is_kept, graph.add("GatherElements", [weights, "best_tokens"], axis=1), zero])
    sums = graph.add("CumSum", [best, axis])
    total_kept = graph.add("Gather", [sums, graph.constant([-1])], axis=1)
    total = graph.add("Where", [_add_column(graph, _add_has_top_k(graph)), total_kept, total])
    limit = graph.add("Mul", [total, _add_column(graph, "top_p")])
    before = graph.add("CumSum", [best, axis], exclusive=1)
    is_kept = graph.add("And", [is_kept, graph.add("Less", [before, limit])])
    last = graph.add("Max", [graph.add("Sub", [_add_count(graph, is_kept), axis]), graph.constant(0)])
    mass = graph.add("Mul", [add_pick(graph, sums, last), "uniform"])
    num_passed = _add_count(graph, graph.add("LessOrEqual", [sums, _add_column(graph, mass)]))
    return add_pick(graph, "best_tokens", graph.add("Min", [num_passed, last]))

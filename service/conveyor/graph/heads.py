"""Small models that look at a run's logits where these are, so that nothing as wide as the vocabulary has to move.

Each takes `logits`, whose last axis is the vocabulary V, and `rows` int64 `[N]`: indices into the logits flattened to
`[-1, V]`. What a row gives does not depend on the other rows, so a text does not depend on the batch it was made in.
All operators have CUDA kernels.
"""

from onnx import ModelProto, TensorProto, ValueInfoProto

from conveyor.graph.builder import GraphBuilder, value_info


def top_head(dtype: str = "float32") -> ModelProto:
    """The best tokens.

    Inputs: `logits`, `rows`, `k` int64 `[1]`, at most V. Outputs: `tokens` int64 `[N, k]`, best first, of equals the
    lower id first; `log_probabilities` float32 `[N, k]`.
    """
    graph = GraphBuilder()
    logits = _add_rows(graph, dtype)
    graph.add_many("TopK", [logits, "k"], ["best", "tokens"], axis=1)
    graph.add("GatherElements", [graph.add("LogSoftmax", [logits], axis=1), "tokens"], "log_probabilities", axis=1)
    return graph.model(
        [*_row_inputs(dtype), value_info("k", "int64", [1])],
        [value_info("tokens", "int64", ["N", "K"]), value_info("log_probabilities", "float32", ["N", "K"])],
    )


def score_head(dtype: str = "float32") -> ModelProto:
    """How likely given tokens are.

    Inputs: `logits`, `rows`, `targets` int64 `[N]`. Outputs: `log_probabilities` float32 `[N]`.
    """
    graph = GraphBuilder()
    logits = _add_rows(graph, dtype)
    _add_pick(graph, graph.add("LogSoftmax", [logits], axis=1), "targets", "log_probabilities")
    return graph.model(
        [*_row_inputs(dtype), value_info("targets", "int64", ["N"])],
        [value_info("log_probabilities", "float32", ["N"])],
    )


def sample_head(dtype: str = "float32") -> ModelProto:
    """Draws a token from each row.

    Inputs: `logits`, `rows`, and `[N]` each: `temperature` float32 (0 takes the best token, of equals the lowest id),
    `top_k` int64 (0 means all), `top_p` float32 above 0, `penalty` float32, `uniform` float32 in [0, 1); and `recent`
    int64 `[N, W]`, W at least 1: the tokens to penalise, padded with -1.
    Outputs: `tokens` int64 `[N]`; `log_probabilities` float32 `[N]` of them under the unchanged logits.

    First the penalty of Keskar et al. (2019), once a token; then temperature; then the `top_k` best tokens are kept; of
    those, the fewest best whose share reaches `top_p`; `uniform` inverts the cumulative distribution of what is left,
    best token first.
    """
    graph = GraphBuilder()
    raw = _add_rows(graph, dtype)
    logits = _add_penalty(graph, raw)
    graph.add("Where", [_add_is_greedy(graph), _add_best(graph, logits), _add_draw(graph, logits)], "tokens")
    _add_pick(graph, graph.add("LogSoftmax", [raw], axis=1), "tokens", "log_probabilities")
    fields = {"temperature": "float32", "top_k": "int64", "top_p": "float32", "penalty": "float32"}
    return graph.model(
        [
            *_row_inputs(dtype),
            *(value_info(name, kind, ["N"]) for name, kind in fields.items()),
            value_info("recent", "int64", ["N", "W"]),
            value_info("uniform", "float32", ["N"]),
        ],
        [value_info("tokens", "int64", ["N"]), value_info("log_probabilities", "float32", ["N"])],
    )


def _row_inputs(dtype: str) -> list[ValueInfoProto]:
    return [value_info("logits", dtype, None), value_info("rows", "int64", ["N"])]


def _add_rows(graph: GraphBuilder, dtype: str) -> str:
    """The chosen rows of the logits: float32 `[N, V]`."""
    graph.add("Shape", ["logits"], "vocabulary_size", start=-1)
    shape = graph.add("Concat", [graph.constant([-1]), "vocabulary_size"], axis=0)
    rows = graph.add("Gather", [graph.add("Reshape", ["logits", shape]), "rows"], axis=0)
    return rows if dtype == "float32" else graph.add("Cast", [rows], to=TensorProto.FLOAT)


def _add_pick(graph: GraphBuilder, values: str, indices: str, output: str | None = None) -> str:
    """`values[i, indices[i]]` for every row i."""
    last = graph.constant([1])
    picked = graph.add("GatherElements", [values, graph.add("Unsqueeze", [indices, last])], axis=1)
    return graph.add("Squeeze", [picked, last], output)


def _add_column(graph: GraphBuilder, name: str) -> str:
    return graph.add("Unsqueeze", [name, graph.constant([1])])


def _add_penalty(graph: GraphBuilder, logits: str) -> str:
    """Penalises recent tokens. Padding writes what one of the row's own tokens gets, so that no write is at odds."""
    zero = graph.constant(0)
    # Token ids below 2**24 are exact in float32, whose reductions every provider has.
    largest = graph.add("ReduceMax", [graph.add("Cast", ["recent"], to=TensorProto.FLOAT), graph.constant([1])])
    largest = graph.add("Cast", [largest], to=TensorProto.INT64)
    is_padding = graph.add("Less", ["recent", zero])
    tokens = graph.add("Max", [graph.add("Where", [is_padding, largest, "recent"]), zero])
    penalty = _add_column(graph, "penalty")
    penalty = graph.add("Where", [graph.add("Less", [largest, zero]), graph.constant(1, "float32"), penalty])
    values = graph.add("GatherElements", [logits, tokens], axis=1)
    is_positive = graph.add("Greater", [values, graph.constant(0, "float32")])
    divided, multiplied = graph.add("Div", [values, penalty]), graph.add("Mul", [values, penalty])
    values = graph.add("Where", [is_positive, divided, multiplied])
    return graph.add("ScatterElements", [logits, tokens, values], axis=1)


def _add_is_greedy(graph: GraphBuilder) -> str:
    return graph.add("Equal", ["temperature", graph.constant(0, "float32")], "is_greedy")


def _add_best(graph: GraphBuilder, logits: str) -> str:
    """The lowest id of the largest logits, whatever a provider's ArgMax makes of ties."""
    last = graph.constant([1])
    largest = graph.add("ReduceMax", [logits, last], keepdims=1)
    ids = graph.add("Cast", [_add_ids(graph, "vocabulary_size")], to=TensorProto.FLOAT)
    end = graph.add("Cast", ["vocabulary_size"], to=TensorProto.FLOAT)
    candidates = graph.add("Where", [graph.add("Equal", [logits, largest]), ids, end])
    best = graph.add("Cast", [graph.add("ReduceMin", [candidates, last], keepdims=0)], to=TensorProto.INT64)
    # Logits that are not numbers equal nothing; an id beyond the vocabulary would fail the whole batch.
    return graph.add("Min", [best, graph.add("Sub", ["vocabulary_size", graph.constant([1])])])


def _add_ids(graph: GraphBuilder, end: str) -> str:
    """0, 1, ... up to the length `[1]`."""
    scalar = graph.add("Squeeze", [end])
    return graph.add("Range", [graph.constant(0), scalar, graph.constant(1)])


def _add_num_candidates(graph: GraphBuilder, kept: str) -> str:
    """How many best tokens any row may draw from: `[1]`, so that no more are sorted."""
    kept = graph.add("Where", ["is_greedy", graph.constant(1), kept])
    return graph.add("ReduceMax", [kept, graph.constant([0])], keepdims=1)


def _add_draw(graph: GraphBuilder, logits: str) -> str:
    """All sums are running sums from the best token on, so they do not depend on how many tokens were sorted."""
    no_limit = graph.add("Equal", ["top_k", graph.constant(0)])
    kept = graph.add("Min", [graph.add("Where", [no_limit, "vocabulary_size", "top_k"]), "vocabulary_size"])
    num_candidates = _add_num_candidates(graph, kept)
    graph.add_many("TopK", [logits, num_candidates], ["best_logits", "best_tokens"], axis=1)
    weights = _add_weights(graph)
    in_top_k = graph.add("Less", [_add_ids(graph, num_candidates), _add_column(graph, kept)])
    weights = graph.add("Where", [in_top_k, weights, graph.constant(0, "float32")])
    axis = graph.constant(1)
    sums = graph.add("CumSum", [weights, axis])
    total = graph.add("Gather", [sums, graph.constant([-1])], axis=1)
    limit = graph.add("Mul", [total, _add_column(graph, "top_p")])
    before = graph.add("CumSum", [weights, axis], exclusive=1)
    in_top_p = graph.add("And", [graph.add("Less", [before, limit]), in_top_k])
    return _add_inverse(graph, sums, in_top_p)


def _add_weights(graph: GraphBuilder) -> str:
    """Unnormalised probabilities of the best tokens, best first; the best has weight 1."""
    one = graph.constant(1, "float32")
    temperature = _add_column(graph, graph.add("Where", ["is_greedy", one, "temperature"]))
    largest = graph.add("Gather", ["best_logits", graph.constant([0])], axis=1)
    return graph.add("Exp", [graph.add("Div", [graph.add("Sub", ["best_logits", largest]), temperature])])


def _add_inverse(graph: GraphBuilder, sums: str, is_kept: str) -> str:
    """The first kept token whose running sum exceeds `uniform` times the kept sum."""
    zero, one = graph.constant(0), graph.constant(1)
    num_kept = graph.add("Max", [_add_count(graph, is_kept), one])
    last = graph.add("Sub", [num_kept, one])
    mass = graph.add("Mul", [_add_pick(graph, sums, last), "uniform"])
    is_passed = graph.add("LessOrEqual", [sums, _add_column(graph, mass)])
    num_passed = _add_count(graph, graph.add("And", [is_passed, is_kept]))
    # Rounding may make the product reach the sum itself.
    index = graph.add("Max", [graph.add("Min", [num_passed, last]), zero])
    return _add_pick(graph, "best_tokens", index)


def _add_count(graph: GraphBuilder, flags: str) -> str:
    counted = graph.add(
        "ReduceSum", [graph.add("Cast", [flags], to=TensorProto.FLOAT), graph.constant([1])], keepdims=0
    )
    return graph.add("Cast", [counted], to=TensorProto.INT64)

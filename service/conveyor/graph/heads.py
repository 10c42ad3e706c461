"""Small models that look at a run's logits where these are, so that nothing as wide as the vocabulary has to move.

Each takes `logits`, whose last axis is the vocabulary V, and `rows` int64 `[N]`: indices into the logits flattened to
`[-1, V]`. What a row gives does not depend on the other rows, so a text does not depend on the batch it was made in.
All operators have CUDA kernels.
"""

from onnx import ModelProto, TensorProto, ValueInfoProto

from conveyor.graph.builder import GraphBuilder, value_info
from conveyor.graph.sampling import add_draw, add_penalty, add_pick


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
    add_pick(graph, graph.add("LogSoftmax", [logits], axis=1), "targets", "log_probabilities")
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
    those, the fewest best whose share reaches `top_p`. `uniform` inverts the cumulative distribution of what is left,
    best token first; in the order of ids where nothing was cut.
    """
    graph = GraphBuilder()
    logits = _add_rows(graph, dtype)
    add_draw(graph, add_penalty(graph, logits), "tokens")
    add_pick(graph, graph.add("LogSoftmax", [logits], axis=1), "tokens", "log_probabilities")
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

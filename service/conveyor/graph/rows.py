"""Two small models that read and write rows of an arena which only the device can touch."""

from onnx import ModelProto

from conveyor.graph.arena import Arena, Scatter, add_scatter
from conveyor.graph.builder import GraphBuilder, value_info


def read_rows_model(arena: Arena) -> ModelProto:
    """Inputs: `arena` `[rows, width]`, `slots` int64 `[N]`. Output: `rows` `[N, width]`."""
    graph = GraphBuilder()
    graph.add("Gather", ["arena", "slots"], "rows", axis=0)
    return graph.model(
        [value_info("arena", arena.dtype, ["R", arena.width]), value_info("slots", "int64", ["N"])],
        [value_info("rows", arena.dtype, ["N", arena.width])],
    )


def write_rows_model(arena: Arena, scatter: Scatter) -> ModelProto:
    """Inputs: `arena` `[rows, width]`, `slots` int64 `[N]`, none twice, `rows` `[N, width]`.

    Output: `arena.out`, to be bound to the arena itself.
    """
    graph = GraphBuilder()
    slots = graph.add("Unsqueeze", ["slots", graph.constant([1])])
    add_scatter(graph, scatter, "arena", slots, "rows", "arena.out", arena.width)
    return graph.model(
        [
            value_info("arena", arena.dtype, ["R", arena.width]),
            value_info("slots", "int64", ["N"]),
            value_info("rows", arena.dtype, ["N", arena.width]),
        ],
        [value_info("arena.out", arena.dtype, ["R", arena.width])],
    )

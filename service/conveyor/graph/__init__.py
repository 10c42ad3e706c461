"""Reads models and rewrites their graphs for serving. Knows ONNX, not onnxruntime."""

from conveyor.graph.arena import CONTEXT_SLOTS, READ_SLOTS, WRITE_SLOTS, Arena, Scatter, check_arena_size
from conveyor.graph.errors import ModelError
from conveyor.graph.model_file import ModelFile, model_from_proto, read_model
from conveyor.graph.serving import LENGTHS, ServingGraph, build_serving_graph

__all__ = [
    "CONTEXT_SLOTS",
    "LENGTHS",
    "READ_SLOTS",
    "WRITE_SLOTS",
    "Arena",
    "ModelError",
    "ModelFile",
    "Scatter",
    "ServingGraph",
    "build_serving_graph",
    "check_arena_size",
    "model_from_proto",
    "read_model",
]

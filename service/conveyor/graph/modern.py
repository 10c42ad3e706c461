"""Brings a graph to a form that the serving graph can be written around: no functions, no operator set before 13."""

import onnx
import onnx.inliner
import onnx.version_converter
from onnx import ModelProto

from conveyor.graph.errors import ModelError

# The serving graph's own operators are written for this one and newer.
OLDEST_OPSET = 13


def modernised(proto: ModelProto) -> ModelProto:
    """The same model; itself if there is nothing to do.

    Raises:
        ModelError: onnx cannot rewrite it.
    """
    try:
        if proto.functions:
            proto = onnx.inliner.inline_local_functions(proto)
        if _opset(proto) < OLDEST_OPSET:
            proto = onnx.version_converter.convert_version(proto, OLDEST_OPSET)
    except Exception as error:  # its C++ raises whatever it finds
        problem = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"opset {_opset(proto)} cannot be brought to {OLDEST_OPSET}: {problem}") from error
    return proto


def _opset(proto: ModelProto) -> int:
    return next((opset.version for opset in proto.opset_import if opset.domain in ("", "ai.onnx")), OLDEST_OPSET)

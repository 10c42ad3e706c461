"""Models as others make them: ONNX graphs that say nothing about themselves, each with the signature that is true."""

from itertools import product
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from conveyor.signature import Axis, OutputSpec, Signature, StateSpec, TensorSpec
from tests.models import value_info

NUM_FEATURES = 3
ROWS = 2  # of the sums' state: one counts once, one twice

# Batch axis of the state, time axis of the inputs, dtype of the state, whether it starts at something.
SHAPES = list(product((0, 1, None), (0, 1, None), ("float32", "float16", "int64"), (False, True)))


def save_foreign(folder: Path, proto: onnx.ModelProto, signature: Signature | None = None) -> Path:
    """Writes `folder/model.onnx`, and beside it `signature.json` if there is one; returns the model's path."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, folder / "model.onnx")
    if signature is not None:
        (folder / "signature.json").write_text(signature.to_json())
    return folder / "model.onnx"


def make_sums(
    batch: int | None, time: int | None, dtype: str = "float32", *, has_initial: bool = False
) -> tuple[onnx.ModelProto, Signature]:
    """Sums of `x` so far: `sums` has as many steps, `state` `(2, 3)` has them once and twice.

    `batch` is the state's batch axis; the inputs' is what their time axis leaves.
    """
    x_axis = _stream_axis(batch, time)
    shape = (1, NUM_FEATURES) if batch is None and time == 1 else (NUM_FEATURES,)
    initial = tuple(float(value) for value in range(1, ROWS * NUM_FEATURES + 1)) if has_initial else None
    signature = Signature(
        inputs=(TensorSpec("x", "float32", shape, x_axis),),
        states=(StateSpec("state", dtype, (ROWS, NUM_FEATURES), Axis(batch=batch), "state_out", initial),),
        outputs=(OutputSpec("sums", "float32", shape, x_axis),),
    )
    return _foreign(_sum_nodes(signature), _constants(time, batch), signature), signature


def _stream_axis(batch: int | None, time: int | None) -> Axis:
    if batch is None:
        return Axis(time=time)
    return Axis(batch={0: 1, 1: 0, None: 0}[time], time=time)


def _sum_nodes(signature: Signature) -> list[onnx.NodeProto]:
    """`sums` = cumulated `x` + the state's first row; the state takes the last sum, once and twice, as its own type."""
    (x,), (state,) = signature.inputs, signature.states
    time, dtype = x.axis.time, helper.np_dtype_to_tensor_dtype(np.dtype(state.dtype))
    rows_axis = 1 if state.axis.batch == 0 else 0
    node = helper.make_node
    nodes = [
        node("Cast", ["state"], ["floats"], to=TensorProto.FLOAT),
        node("Gather", ["floats", "zero"], ["first"], axis=rows_axis),  # [B, 3] or [3]
    ]
    if time is None:
        nodes += [node("Add", ["x", "first"], ["sums"]), node("Identity", ["x"], ["total"])]
    else:
        nodes += [
            node("CumSum", ["x", "time"], ["moves"]),
            node("Unsqueeze", ["first", "step_axes"], ["first_step"]),
            node("Add", ["moves", "first_step"], ["sums"]),
            node("ReduceSum", ["x", "time_axes"], ["total"], keepdims=0),
        ]
    if len(x.shape) == 2:  # [1, T, 3]: the total is [1, 3]
        nodes.append(node("Squeeze", ["total", "first_axes"], ["flat"]))
    total = "flat" if len(x.shape) == 2 else "total"
    return [
        *nodes,
        node("Unsqueeze", [total, "rows_axes"], ["row"]),
        node("Mul", ["row", "weights"], ["rows"]),
        node("Cast", ["rows"], ["gain"], to=dtype),
        node("Add", ["state", "gain"], ["state_out"]),
    ]


def _constants(time: int | None, batch: int | None) -> dict[str, np.ndarray]:
    rows_axis = 1 if batch == 0 else 0
    weights = np.array([1, 2], np.float32).reshape((2, 1) if batch in (0, None) else (2, 1, 1))
    return {
        "zero": np.array(0),
        "first_axes": np.array([0]),
        "time": np.array(time or 0),
        "time_axes": np.array([time or 0]),
        "step_axes": np.array([0 if batch is None else time or 0]),
        "rows_axes": np.array([rows_axis]),
        "weights": weights,
    }


def _foreign(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], signature: Signature) -> onnx.ModelProto:
    inputs = [value_info(spec) for spec in (*signature.fed, *signature.states)]
    outputs = [value_info(spec) for spec in signature.outputs]
    outputs += [value_info(spec, spec.output) for spec in signature.states]
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "foreign", inputs, outputs, weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def expected_sums(steps: np.ndarray, *, has_initial: bool) -> np.ndarray:
    """What a session of `[T, ...]` steps is answered."""
    start = np.arange(1, NUM_FEATURES + 1, dtype=np.float32) if has_initial else np.zeros(NUM_FEATURES, np.float32)
    return start + steps.cumsum(axis=0)


def make_vague() -> tuple[onnx.ModelProto, Signature]:
    """Sums whose graph declares lengths of 0 for any, symbols that say nothing, and no shapes of its outputs."""
    proto, signature = make_sums(0, 1)
    for value in proto.graph.input:
        for number, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param:
                dim.Clear()
                dim.CopyFrom(onnx.TensorShapeProto.Dimension(**({"dim_value": 0} if number else {"dim_param": "?"})))
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    return proto, signature


def make_old_gru(opset: int) -> onnx.ModelProto:
    """A GRU in an operator set of old: `x` `[T, B, 4]`, `h` `[1, B, 5]`, `y` `[T, B, 5]`."""
    rng = np.random.default_rng(0)
    weights = {"W": (1, 15, 4), "R": (1, 15, 5), "B": (1, 30)}
    constants = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in weights.items()]
    nodes = [
        helper.make_node("GRU", ["x", "W", "R", "B", "", "h"], ["all", "hn"], hidden_size=5, linear_before_reset=1),
        helper.make_node("Squeeze", ["all"], ["y"], axes=[1]),
    ]
    shapes = {"x": ["T", "B", 4], "h": [1, "B", 5], "y": ["T", "B", 5], "hn": [1, "B", 5]}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "old", values[:2], values[2:], constants)
    # Before IR version 4, weights were inputs with a value.
    graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3)


def make_rated() -> onnx.ModelProto:
    """Branches that read the graph's own tensors: at `rate` 2 the state takes `x` twice, else once; `flip` is a bool.

    `x` and `more` are `[B, 3]`, `y` is the state and `more`; `flips` tells whether the number of steps is odd.
    """
    node = helper.make_node
    branches = {
        name: helper.make_graph(
            [node("Mul", ["x", factor], [f"{name}.some"]), node("Add", ["h", f"{name}.some"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        )
        for name, factor in (("twice", "two"), ("once", "one"))
    }
    nodes = [
        node("Equal", ["rate", "usual"], ["is_usual"]),
        node("If", ["is_usual"], ["hn"], then_branch=branches["twice"], else_branch=branches["once"]),
        node("Add", ["hn", "more"], ["y"]),
        node("Not", ["flip_state"], ["flip_state_out"]),
        node("Identity", ["flip_state_out"], ["flips"]),
    ]
    floats, flags = ("x", "more", "h", "y", "hn"), ("flip_state", "flips", "flip_state_out")
    info = helper.make_tensor_value_info
    values = {name: info(name, TensorProto.FLOAT, ["B", 3]) for name in floats}
    values |= {name: info(name, TensorProto.BOOL, ["B"]) for name in flags}
    values["rate"] = info("rate", TensorProto.INT64, [])
    inputs = [values[name] for name in ("x", "rate", "more", "h", "flip_state")]
    outputs = [values[name] for name in ("flip_state_out", "y", "hn", "flips")]
    numbers = {"one": np.float32(1), "two": np.float32(2), "usual": np.int64(2)}
    weights = [numpy_helper.from_array(np.array(number), name) for name, number in numbers.items()]
    graph = helper.make_graph(nodes, "rated", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def make_loop() -> onnx.ModelProto:
    """A body that reads the graph's own `x`: the state takes it three times in each step. `x`, `y` are `[B, 2]`."""
    info = helper.make_tensor_value_info
    held, out = (info(name, TensorProto.FLOAT, None) for name in ("held", "held_out"))
    count, flag, again = (
        info(name, kind, [])
        for name, kind in (("count", TensorProto.INT64), ("flag", TensorProto.BOOL), ("again", TensorProto.BOOL))
    )
    body = [helper.make_node("Add", ["held", "x"], ["held_out"]), helper.make_node("Identity", ["flag"], ["again"])]
    inner = helper.make_graph(body, "body", [count, flag, held], [again, out])
    nodes = [
        helper.make_node("Loop", ["three", "", "memory"], ["after"], body=inner),
        helper.make_node("Neg", ["after"], ["y"]),
    ]
    values = [info(name, TensorProto.FLOAT, ["B", 2]) for name in ("x", "memory", "y", "after")]
    weights = [numpy_helper.from_array(np.array(3), "three")]
    graph = helper.make_graph(nodes, "loop", values[:2], values[2:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def make_stateless() -> onnx.ModelProto:
    """No state at all: `y` `[N, 2]` are `x` `[N, 3]` times a matrix."""
    info = helper.make_tensor_value_info
    values = [info("x", TensorProto.FLOAT, ["N", 3]), info("y", TensorProto.FLOAT, ["N", 2])]
    weights = [numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2), "weight")]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])], "flat", values[:1], values[1:], weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def make_step(nodes: list[onnx.NodeProto], *constants: onnx.TensorProto) -> onnx.ModelProto:
    """A model of `x` and `h` `[B, 3]`, whose nodes make `hn` of them; `y` is the same."""
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["B", 3]) for n in ("x", "h", "y", "hn")]
    graph = helper.make_graph([*nodes, helper.make_node("Identity", ["hn"], ["y"])], "g", values[:2], values[2:])
    graph.initializer.extend(constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def make_bomb() -> onnx.ModelProto:
    """Of a few hundred bytes, and takes 32 GiB when it runs."""
    nodes = [
        helper.make_node("ConstantOfShape", ["length"], ["many"]),
        helper.make_node("ReduceSum", ["many"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["x", "h"], ["sum"]),
        helper.make_node("Add", ["sum", "nothing"], ["hn"]),
    ]
    return make_step(nodes, numpy_helper.from_array(np.array([2**33]), "length"))


def make_endless() -> onnx.ModelProto:
    """Goes round and round."""
    flag = helper.make_tensor_value_info("go_on", TensorProto.BOOL, [])
    again = helper.make_tensor_value_info("still", TensorProto.BOOL, [])
    count = helper.make_tensor_value_info("round", TensorProto.INT64, [])
    body = helper.make_graph([helper.make_node("Identity", ["go_on"], ["still"])], "body", [count, flag], [again])
    held = helper.make_tensor_value_info("held", TensorProto.FLOAT, None)
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    body.input.append(held)
    body.output.append(out)
    body.node.append(helper.make_node("Add", ["held", "x"], ["out"]))
    nodes = [helper.make_node("Loop", ["", "yes", "h"], ["hn"], body=body)]
    return make_step(nodes, numpy_helper.from_array(np.array(True), "yes"))

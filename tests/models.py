"""Small models with random weights, each with the eager PyTorch module that says what a server must answer.

Every maker returns `(proto, reference)`. A reference is called as `reference(inputs, states)`: `inputs` is the one
stream input of the graph's own shape and `states` maps state names to tensors of the graph's own shapes; it returns
`(output, new states)`. `initial_states(batch)` starts a sequence.
"""

from dataclasses import replace
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from conveyor.signature import Axis, ContextSpec, NoiseSpec, OutputSpec, Signature, StateSpec, TensorSpec

OPSET = 20
States = dict[str, Tensor]

# PyTorch's gate blocks in ONNX's order.
GATES = {"lstm": [0, 3, 1, 2], "gru": [1, 0, 2], "rnn_tanh": [0], "rnn_relu": [0]}


def make_model(
    cell: str = "lstm",
    num_layers: int = 1,
    hidden_size: int = 16,
    embedding_size: int = 8,
    vocabulary_size: int = 20,
    seed: int = 0,
) -> tuple[onnx.ModelProto, "LanguageModel"]:
    """A language model: `tokens` `[T, B]`, states `h` (and `c`) `[layers, B, H]`, `logits` `[T, B, V]`."""
    reference = LanguageModel(cell, num_layers, hidden_size, embedding_size, vocabulary_size, seed)
    graph = GraphBuilder()
    graph.constant("embedding", reference.embedding.weight)
    graph.node("Gather", ["embedding", "tokens"], ["embedded"])
    top = add_layers(graph, reference.cells, cell, "embedded")
    graph.constant("projection.weight", reference.projection.weight.T)
    graph.constant("projection.bias", reference.projection.bias)
    graph.node("MatMul", [top, "projection.weight"], ["projected"])
    graph.node("Add", ["projected", "projection.bias"], ["logits"])
    signature = Signature(
        inputs=(TensorSpec("tokens", "int64", (), Axis(batch=1, time=0)),),
        states=layer_states(reference.cells, cell),
        outputs=(OutputSpec("logits", "float32", (vocabulary_size,), Axis(batch=1, time=0), is_logits=True),),
        max_token=vocabulary_size - 1,
    )
    return graph.model(signature), reference


def make_context_model(
    hidden_size: int = 16, embedding_size: int = 8, vocabulary_size: int = 20, seed: int = 0
) -> tuple[onnx.ModelProto, "ContextModel"]:
    """An LSTM language model that looks at a `picture` `[B, 3]`, of which all that it remembers is computed.

    The first `h` and the context `leaning` `[B, V]` come from the picture; logits are what the LSTM gives, the leaning,
    and `noise` `[T, B, V]`.
    """
    reference = ContextModel(hidden_size, embedding_size, vocabulary_size, seed)
    graph = GraphBuilder()
    graph.constant("embedding", reference.embedding.weight)
    graph.node("Gather", ["embedding", "tokens"], ["embedded"])
    top = add_layers(graph, reference.cells, "lstm", "embedded")
    graph.constant("projection.weight", reference.projection.weight.T)
    graph.constant("first.weight", reference.first.weight.T)
    graph.constant("lean.weight", reference.lean.weight.T)
    graph.constant("layer_axis", torch.tensor([0]))
    graph.node("MatMul", [top, "projection.weight"], ["projected"])
    graph.node("Add", ["projected", "leaning"], ["leant"])
    graph.node("Add", ["leant", "noise"], ["logits"])
    graph.node("MatMul", ["picture", "first.weight"], ["first"])
    graph.node("Unsqueeze", ["first", "layer_axis"], ["h_first"])
    graph.node("MatMul", ["picture", "lean.weight"], ["leaning_first"])
    steps, batch = Axis(batch=1, time=0), Axis(batch=0)
    h, c = layer_states(reference.cells, "lstm")
    signature = Signature(
        inputs=(TensorSpec("tokens", "int64", (), steps),),
        states=(replace(h, initialiser="h_first"), c),
        outputs=(OutputSpec("logits", "float32", (vocabulary_size,), steps, is_logits=True),),
        contexts=(
            ContextSpec("picture", "float32", (3,), batch),
            ContextSpec("leaning", "float32", (vocabulary_size,), batch, initialiser="leaning_first"),
        ),
        noises=(NoiseSpec("noise", "float32", (vocabulary_size,), steps),),
        max_token=vocabulary_size - 1,
    )
    return graph.model(signature), reference


def make_walk_model() -> tuple[onnx.ModelProto, None]:
    """A walk without any input, from where it was told: `place` `[T, B, 2]`, `stride` normal, `pace` uniform."""
    graph = GraphBuilder()
    graph.constant("time_axis", torch.tensor(0))
    graph.constant("last", torch.tensor(-1))
    graph.node("Mul", ["stride", "pace"], ["moves"])
    graph.node("CumSum", ["moves", "time_axis"], ["way"])
    graph.node("Add", ["way", "at"], ["place"])
    graph.node("Gather", ["place", "last"], ["at_out"], axis=0)
    graph.node("Identity", ["home"], ["at_first"])
    steps, batch = Axis(batch=1, time=0), Axis(batch=0)
    signature = Signature(
        inputs=(),
        states=(StateSpec("at", "float32", (2,), batch, output="at_out", initialiser="at_first"),),
        outputs=(OutputSpec("place", "float32", (2,), steps),),
        contexts=(ContextSpec("home", "float32", (2,), batch),),
        noises=(
            NoiseSpec("stride", "float32", (2,), steps),
            NoiseSpec("pace", "float32", (2,), steps, distribution="uniform"),
        ),
    )
    return graph.model(signature), None


def make_feature_model(
    cell: str = "lstm", num_layers: int = 1, hidden_size: int = 16, num_features: int = 3, seed: int = 0
) -> tuple[onnx.ModelProto, "FeatureModel"]:
    """A tagger of feature frames: `features` `[T, B, F]`, `y` `[T, B, 5]`."""
    reference = FeatureModel(cell, num_layers, hidden_size, num_features, seed)
    graph = GraphBuilder()
    top = add_layers(graph, reference.cells, cell, "features")
    graph.constant("projection.weight", reference.projection.weight.T)
    graph.constant("projection.bias", reference.projection.bias)
    graph.node("MatMul", [top, "projection.weight"], ["projected"])
    graph.node("Add", ["projected", "projection.bias"], ["y"])
    signature = Signature(
        inputs=(TensorSpec("features", "float32", (num_features,), Axis(batch=1, time=0)),),
        states=layer_states(reference.cells, cell),
        outputs=(OutputSpec("y", "float32", (5,), Axis(batch=1, time=0)),),
    )
    return graph.model(signature), reference


def make_frame_model(
    cell: str = "gru", num_layers: int = 1, hidden_size: int = 16, num_features: int = 3, seed: int = 0
) -> tuple[onnx.ModelProto, "FrameModel"]:
    """One step a run, without a time axis: `features` `[B, F]`, `y` `[B, 5]`."""
    reference = FrameModel(cell, num_layers, hidden_size, num_features, seed)
    graph = GraphBuilder()
    graph.constant("time_axis", torch.tensor([0]))
    graph.node("Unsqueeze", ["features", "time_axis"], ["sequence"])
    top = add_layers(graph, reference.cells, cell, "sequence")
    graph.node("Squeeze", [top, "time_axis"], ["frame"])
    graph.constant("projection.weight", reference.projection.weight)
    graph.constant("projection.bias", reference.projection.bias)
    graph.node("Gemm", ["frame", "projection.weight", "projection.bias"], ["y"], transB=1)
    signature = Signature(
        inputs=(TensorSpec("features", "float32", (num_features,), Axis(batch=0)),),
        states=layer_states(reference.cells, cell),
        outputs=(OutputSpec("y", "float32", (5,), Axis(batch=0)),),
    )
    return graph.model(signature), reference


def make_step_model(
    hidden_size: int = 16, embedding_size: int = 8, vocabulary_size: int = 20, seed: int = 0
) -> tuple[onnx.ModelProto, "StepModel"]:
    """A cell of plain operators that takes one step a run and counts: `tokens` `[1, B]`, `logits` `[1, B, V]`.

    States: `h` float32 `[B, H]` that starts at given values, and `count` int64 `[B]` that turns the logits' scale.
    """
    reference = StepModel(hidden_size, embedding_size, vocabulary_size, seed)
    graph = GraphBuilder()
    for name, parameter in reference.named_parameters():
        graph.constant(name, parameter)
    graph.constant("time_axis", torch.tensor([0]))
    graph.constant("last_axis", torch.tensor([1]))
    graph.constant("one", torch.tensor(1))
    graph.node("Gather", ["embedding.weight", "tokens"], ["embedded"])
    graph.node("Squeeze", ["embedded", "time_axis"], ["x"])
    graph.node("Gemm", ["x", "entry.weight", "entry.bias"], ["from_x"], transB=1)
    graph.node("Gemm", ["h", "recurrence.weight", "recurrence.bias"], ["from_h"], transB=1)
    graph.node("Add", ["from_x", "from_h"], ["sum"])
    graph.node("Tanh", ["sum"], ["h_out"])
    graph.node("Add", ["count", "one"], ["count_out"])
    graph.node("Gemm", ["h_out", "projection.weight", "projection.bias"], ["projected"], transB=1)
    graph.node("Cast", ["count_out"], ["count_float"], to=TensorProto.FLOAT)
    graph.node("Unsqueeze", ["count_float", "last_axis"], ["scale"])
    graph.node("Div", ["projected", "scale"], ["scaled"])
    graph.node("Unsqueeze", ["scaled", "time_axis"], ["logits"])
    initial = tuple(reference.initial.tolist())
    signature = Signature(
        inputs=(TensorSpec("tokens", "int64", (), Axis(batch=1, time=0)),),
        states=(
            StateSpec("h", "float32", (hidden_size,), Axis(batch=0), output="h_out", initial=initial),
            StateSpec("count", "int64", (), Axis(batch=0), output="count_out"),
        ),
        outputs=(OutputSpec("logits", "float32", (vocabulary_size,), Axis(batch=1, time=0), is_logits=True),),
        max_token=vocabulary_size - 1,
        fixed_steps=1,
    )
    return graph.model(signature), reference


def make_lone_model(
    hidden_size: int = 16, num_features: int = 3, seed: int = 0
) -> tuple[onnx.ModelProto, "FeatureModel"]:
    """A graph for one session at a time: `features` `[T, 1, F]` and states `[1, 1, H]` have no batch axis."""
    reference = FeatureModel("lstm", 1, hidden_size, num_features, seed)
    graph = GraphBuilder()
    top = add_layers(graph, reference.cells, "lstm", "features")
    graph.constant("projection.weight", reference.projection.weight.T)
    graph.constant("projection.bias", reference.projection.bias)
    graph.node("MatMul", [top, "projection.weight"], ["projected"])
    graph.node("Add", ["projected", "projection.bias"], ["y"])
    signature = Signature(
        inputs=(TensorSpec("features", "float32", (1, num_features), Axis(time=0)),),
        states=tuple(StateSpec(n, "float32", (1, 1, hidden_size), Axis(), output=f"{n}_out") for n in ("h", "c")),
        outputs=(OutputSpec("y", "float32", (1, 5), Axis(time=0)),),
    )
    return graph.model(signature), reference


def save_model(folder: Path, proto: onnx.ModelProto) -> Path:
    """Writes `folder/model.onnx` and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    onnx.save(proto, path)
    return path


class GraphBuilder:
    """Collects nodes and constants, then closes them into a model that carries its signature."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: Tensor) -> str:
        self.constants.append(numpy_helper.from_array(value.detach().contiguous().numpy(), name))
        return name

    def node(self, op_type: str, inputs: list[str], outputs: list[str], **attributes: object) -> None:
        self.nodes.append(helper.make_node(op_type, inputs, outputs, name=f"{op_type}_{len(self.nodes)}", **attributes))

    def model(self, signature: Signature) -> onnx.ModelProto:
        inputs = [value_info(spec) for spec in (*signature.fed, *signature.states)]
        outputs = [value_info(spec) for spec in signature.outputs]
        outputs += [value_info(spec, spec.output) for spec in signature.states]
        outputs += [value_info(spec, name) for name, spec in signature.initialisers.items()]
        graph = helper.make_graph(self.nodes, "model", inputs, outputs, self.constants)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        helper.set_model_props(proto, {"conveyor.signature": signature.to_json()})
        onnx.checker.check_model(proto, full_check=True)
        return proto


def value_info(spec: TensorSpec, name: str | None = None) -> onnx.ValueInfoProto:
    """The graph's tensor of a spec: batch and time axes are the symbols B and T."""
    shape: list[int | str] = list(spec.shape)
    for position, symbol in sorted((p, s) for p, s in ((spec.axis.batch, "B"), (spec.axis.time, "T")) if p is not None):
        shape.insert(position, symbol)
    dtype = helper.np_dtype_to_tensor_dtype(torch.zeros(0, dtype=getattr(torch, spec.dtype)).numpy().dtype)
    return helper.make_tensor_value_info(name or spec.name, dtype, shape)


def state_names(cell: str) -> tuple[str, ...]:
    return ("h", "c") if cell == "lstm" else ("h",)


def layer_states(cells: nn.RNNBase, cell: str) -> tuple[StateSpec, ...]:
    shape = (cells.num_layers, cells.hidden_size)
    return tuple(StateSpec(n, "float32", shape, Axis(batch=1), output=f"{n}_out") for n in state_names(cell))


def add_layers(graph: GraphBuilder, cells: nn.RNNBase, cell: str, below: str) -> str:
    """Adds a recurrent node for each layer, and the split and join of their states; returns the top layer's name."""
    layers = range(cells.num_layers)
    for name in state_names(cell):
        graph.node("Split", [name], [f"{name}.{i}" for i in layers], axis=0, num_outputs=cells.num_layers)
    for layer in layers:
        below = add_layer(graph, cells, cell, layer, below)
    for name in state_names(cell):
        graph.node("Concat", [f"{name}_out.{i}" for i in layers], [f"{name}_out"], axis=0)
    return below


def add_layer(graph: GraphBuilder, cells: nn.RNNBase, cell: str, layer: int, below: str) -> str:
    def gates(name: str) -> Tensor:
        blocks = getattr(cells, f"{name}_l{layer}").chunk(len(GATES[cell]))
        return torch.cat([blocks[i] for i in GATES[cell]])

    weights = [
        graph.constant(f"W.{layer}", gates("weight_ih")[None]),
        graph.constant(f"R.{layer}", gates("weight_hh")[None]),
    ]
    weights.append(graph.constant(f"B.{layer}", torch.cat([gates("bias_ih"), gates("bias_hh")])[None]))
    names = state_names(cell)
    attributes: dict[str, object] = {"hidden_size": cells.hidden_size}
    if cell == "gru":
        attributes["linear_before_reset"] = 1
    if cell == "rnn_relu":
        attributes["activations"] = ["Relu"]
    inputs = [below, *weights, "", *(f"{name}.{layer}" for name in names)]
    outputs = [f"Y.{layer}", *(f"{name}_out.{layer}" for name in names)]
    graph.node(cell.split("_")[0].upper(), inputs, outputs, **attributes)
    if layer == 0:
        graph.constant("direction_axis", torch.tensor([1]))
    graph.node("Squeeze", [f"Y.{layer}", "direction_axis"], [f"y.{layer}"])
    return f"y.{layer}"


def make_cells(cell: str, input_size: int, hidden_size: int, num_layers: int) -> nn.RNNBase:
    if cell == "lstm":
        return nn.LSTM(input_size, hidden_size, num_layers)
    if cell == "gru":
        return nn.GRU(input_size, hidden_size, num_layers)
    return nn.RNN(input_size, hidden_size, num_layers, nonlinearity=cell.removeprefix("rnn_"))


def run_cells(cells: nn.RNNBase, sequence: Tensor, states: States) -> tuple[Tensor, States]:
    if isinstance(cells, nn.LSTM):
        top, (h, c) = cells(sequence, (states["h"], states["c"]))
        return top, {"h": h, "c": c}
    top, h = cells(sequence, states["h"])
    return top, {"h": h}


class Reference(nn.Module):
    """What every reference shares: it runs without gradients, and states of `[layers, B, H]` start at zero."""

    cells: nn.RNNBase

    def __call__(self, *args: object) -> tuple[Tensor, States]:
        with torch.inference_mode():
            return super().__call__(*args)

    def initial_states(self, batch: int) -> States:
        shape = (self.cells.num_layers, batch, self.cells.hidden_size)
        return {name: torch.zeros(shape) for name in state_names("lstm" if isinstance(self.cells, nn.LSTM) else "rnn")}


class LanguageModel(Reference):
    def __init__(
        self, cell: str, num_layers: int, hidden_size: int, embedding_size: int, vocabulary_size: int, seed: int
    ):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(vocabulary_size, embedding_size)
            self.cells = make_cells(cell, embedding_size, hidden_size, num_layers)
            self.projection = nn.Linear(hidden_size, vocabulary_size)

    def forward(self, tokens: Tensor, states: States) -> tuple[Tensor, States]:
        top, states = run_cells(self.cells, self.embedding(tokens), states)
        return self.projection(top), states


class ContextModel(Reference):
    def __init__(self, hidden_size: int, embedding_size: int, vocabulary_size: int, seed: int):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(vocabulary_size, embedding_size)
            self.cells = nn.LSTM(embedding_size, hidden_size)
            self.projection = nn.Linear(hidden_size, vocabulary_size, bias=False)
            self.first = nn.Linear(3, hidden_size, bias=False)
            self.lean = nn.Linear(3, vocabulary_size, bias=False)

    def forward(self, tokens: Tensor, picture: Tensor, noise: Tensor) -> Tensor:
        """All logits of a sequence from its beginning: there is no state to go on from."""
        states = {"h": self.first(picture)[None], "c": torch.zeros(1, len(picture), self.cells.hidden_size)}
        top, _ = run_cells(self.cells, self.embedding(tokens), states)
        return self.projection(top) + self.lean(picture) + noise


class FeatureModel(Reference):
    def __init__(self, cell: str, num_layers: int, hidden_size: int, num_features: int, seed: int):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.cells = make_cells(cell, num_features, hidden_size, num_layers)
            self.projection = nn.Linear(hidden_size, 5)

    def forward(self, features: Tensor, states: States) -> tuple[Tensor, States]:
        top, states = run_cells(self.cells, features, states)
        return self.projection(top), states


class FrameModel(FeatureModel):
    def forward(self, features: Tensor, states: States) -> tuple[Tensor, States]:
        y, states = super().forward(features[None], states)
        return y[0], states


class StepModel(Reference):
    def __init__(self, hidden_size: int, embedding_size: int, vocabulary_size: int, seed: int):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(vocabulary_size, embedding_size)
            self.entry = nn.Linear(embedding_size, hidden_size)
            self.recurrence = nn.Linear(hidden_size, hidden_size)
            self.projection = nn.Linear(hidden_size, vocabulary_size)
            self.initial = torch.randn(hidden_size)

    def initial_states(self, batch: int) -> States:
        return {"h": self.initial.repeat(batch, 1), "count": torch.zeros(batch, dtype=torch.int64)}

    def forward(self, tokens: Tensor, states: States) -> tuple[Tensor, States]:
        h = torch.tanh(self.entry(self.embedding(tokens[0])) + self.recurrence(states["h"]))
        count = states["count"] + 1
        logits = self.projection(h) / count[:, None]
        return logits[None], {"h": h, "count": count}

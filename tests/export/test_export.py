"""Exports of every cell, read back as the server reads them and held against PyTorch."""

from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch

from conveyor.graph import read_model
from conveyor_export import ExportOptions, ExportReport, export_model
from conveyor_export.errors import SourceError
from conveyor_export.language_model import LanguageModel, LanguageModelConfig
from conveyor_export.shapes import random_inputs, random_states
from tests.export.custom_modules import CellLoop, Returning, RunningSum, Shared, Tagger, Tensors

OPS = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN", "rnn_relu": "RNN"}
SYMBOLS = ["\ufffd", *"abcdefghijk"]


def make_language_model(cell: str = "lstm", num_layers: int = 1, tied: bool = False) -> LanguageModel:
    """A small one with weights of a trained one's size."""
    torch.manual_seed(0)
    config = LanguageModelConfig(len(SYMBOLS), 16 if tied else 6, 16, num_layers, cell, tied, dropout=0.3)
    return LanguageModel(config)


def export(model: torch.nn.Module, path: Path, **options: object) -> tuple[ExportReport, onnx.ModelProto]:
    report = export_model(model, path, **options)
    return report, onnx.load(path)


def constants(model: onnx.ModelProto) -> set[str]:
    return {weight.name for weight in model.graph.initializer}


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("cell", OPS)
def test_each_layer_is_one_operator_with_constant_weights(cell: str, num_layers: int, tmp_path: Path) -> None:
    """Every layer becomes one LSTM, GRU or RNN that CUDA takes, in a graph of free T and B that equals PyTorch."""
    model = make_language_model(cell, num_layers, tied=num_layers == 3)
    report, graph = export(model, tmp_path / "m.onnx", vocabulary=SYMBOLS)

    layers = [node for node in graph.graph.node if node.op_type == OPS[cell]]
    assert num_layers == len(layers)
    assert all(set(layer.input[1:4]) <= constants(graph) for layer in layers)
    names = {attribute.name for layer in layers for attribute in layer.attribute}
    expected = {"gru": {"hidden_size", "linear_before_reset"}, "rnn_relu": {"hidden_size", "activations"}}
    assert expected.get(cell, {"hidden_size"}) == names
    assert report.proof.difference < 1e-5
    assert report.notice == ""
    dims = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.graph.output}
    assert dims["logits"] == ["T", "B", len(SYMBOLS)]
    assert dims["h_out"] == [num_layers, "B", 16]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[LanguageModel, ExportReport]:
    """A model in training mode, and its export with everything that a file can carry."""
    model = make_language_model("lstm", 2).train()
    path = tmp_path_factory.mktemp("exported") / "new" / "m.onnx"
    return model, export_model(model, path, vocabulary=SYMBOLS, provenance={"corpus": "letters"})


def test_file_carries_signature_vocabulary_and_provenance(exported: tuple[LanguageModel, ExportReport]) -> None:
    """What the server reads is what the exporter was given, and nothing of the machine's own paths."""
    model, report = exported

    read = read_model(report.path)
    assert model.signature() == report.signature == read.signature
    assert read.vocabulary is not None
    assert list(read.vocabulary.symbols) == SYMBOLS
    assert read.provenance["corpus"] == "letters"
    assert read.provenance["precision"] == "float32"
    assert read.provenance["largest_difference"] == report.proof.difference
    assert str(Path.cwd()).encode() not in report.path.read_bytes()
    assert [path.name for path in report.path.parent.iterdir()] == ["m.onnx"]


def test_module_is_left_as_it_was(exported: tuple[LanguageModel, ExportReport]) -> None:
    """Exporting neither leaves training mode nor touches weights or layers."""
    model, untouched = exported[0], make_language_model("lstm", 2).state_dict()

    assert model.training
    assert isinstance(model.rnn, torch.nn.LSTM)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(untouched[name], tensor) for name, tensor in model.state_dict().items())


def test_batch_first_module_and_counter_state(tmp_path: Path) -> None:
    """A protocol module keeps its own axes, an int64 state and a state's initial value, in the opset asked for."""
    torch.manual_seed(1)
    report, graph = export(Tagger(), tmp_path / "m.onnx", options=ExportOptions(opset=18))

    dims = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.graph.input}
    assert dims == {"features": ["B", "T", 3], "h": [2, "B", 6], "count": ["B"]}
    assert Counter(node.op_type for node in graph.graph.node)["GRU"] == 2
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 18)]
    assert report.signature.fixed_steps is None
    assert report.signature.states[1].initial == (5.0,)


def test_loop_over_steps_becomes_a_step_graph(exported: tuple[LanguageModel, ExportReport], tmp_path: Path) -> None:
    """A module that PyTorch can only trace for a fixed T is exported for one step; later exports are none the worse."""
    report, graph = export(CellLoop(), tmp_path / "m.onnx")

    assert report.signature.fixed_steps == 1
    assert "one step per run: UserError: You marked T as dynamic but your code specialized it" in str(report)
    assert "more information" not in str(report)
    dims = [d.dim_param or d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim]
    assert dims == [1, "B", 3]
    assert read_model(tmp_path / "m.onnx").signature.fixed_steps == 1

    _, again = export(exported[0], tmp_path / "again.onnx")
    before = onnx.load(exported[1].path)
    assert before.graph.SerializeToString(deterministic=True) == again.graph.SerializeToString(deterministic=True)


def test_layer_of_two_names_keeps_a_free_time_axis(tmp_path: Path) -> None:
    """A layer that a module has registered twice becomes ONNX operators in both places, with the same weights."""
    report, graph = export(Shared(), tmp_path / "m.onnx")

    assert report.signature.fixed_steps is None
    first, second = (node for node in graph.graph.node if node.op_type == "GRU")
    assert first.input[1:4] == second.input[1:4]


def test_onnxruntime_of_another_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the `gpu` extra there is no distribution called onnxruntime; its version is in the file all the same."""

    def version_of(name: str) -> str:
        if name == "onnxruntime":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("conveyor_export.export.version", version_of)
    export(RunningSum(), tmp_path / "m.onnx")

    assert read_model(tmp_path / "m.onnx").provenance["versions"]["onnxruntime"] == onnxruntime.__version__


def refuse(outputs: Tensors, states: Tensors) -> Any:
    """Makes a module that no export gets to run."""
    raise AssertionError("the module was run")


@pytest.mark.parametrize(
    ("path", "message"), [("folder", "folder: is a folder"), ("file/m.onnx", "file: is not a folder that can be")]
)
def test_place_that_cannot_be_written_to(path: str, message: str, tmp_path: Path) -> None:
    """A wrong place for the file is told before the module is so much as run."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()

    with pytest.raises(OSError, match=message):
        export_model(Returning(refuse), tmp_path / path)


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    """Where the file cannot be put in its place after all, the half-way file goes too."""
    path = tmp_path / "m.onnx"

    def take_the_place(outputs: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        path.mkdir(exist_ok=True)
        return outputs, states

    with pytest.raises(OSError, match=r"m\.onnx"):
        export_model(Returning(take_the_place), path)
    assert list(tmp_path.iterdir()) == [path]


def test_provenance_that_no_file_can_carry(tmp_path: Path) -> None:
    """Provenance that is not JSON is refused before the module is so much as run."""
    with pytest.raises(SourceError, match=r"provenance: .*PosixPath is not JSON"):
        export_model(Returning(refuse), tmp_path / "m.onnx", provenance={"corpus": tmp_path})


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        ([*SYMBOLS[:-1], "a"], "entry 11: 'a' is there already"),
        ([*SYMBOLS[:-1], ""], "entry 11: expected text, got ''"),
        ([*SYMBOLS[:-1], 7], "entry 11: expected text, got 7"),
    ],
)
def test_vocabulary_that_cannot_cut_text(symbols: Sequence[Any], message: str, tmp_path: Path) -> None:
    """Entries that are empty, equal or no text are refused by their place."""
    with pytest.raises(SourceError, match=f"vocabulary: {message}"):
        export_model(make_language_model(), tmp_path / "m.onnx", vocabulary=symbols)


def test_random_tensors_fill_the_signature() -> None:
    """What the proof feeds has the signature's shapes and stays within its tokens."""
    signature = make_language_model(num_layers=2).signature()
    rng = torch.Generator().manual_seed(0)
    inputs = random_inputs(signature, 3, 200, rng)
    states = random_states(signature, 3, rng)

    assert inputs["tokens"].shape == (200, 3)
    assert set(inputs["tokens"].flatten().tolist()) == set(range(len(SYMBOLS)))
    assert states["c"].shape == (2, 3, 16)
    assert -1 <= states["h"].min() < -0.5 < 0.5 < states["h"].max() <= 1

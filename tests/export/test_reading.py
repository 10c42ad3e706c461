"""A language model that was exported is read back."""

from pathlib import Path

import pytest
import torch

from conveyor_export import ExportOptions, Precision, export_model
from conveyor_export.errors import SourceError
from conveyor_export.language_model import LanguageModel, LanguageModelConfig
from conveyor_export.reading import read_language_model
from tests.models import make_feature_model, save_model

SYMBOLS = ["?", *"abcdefghij"]


def make(cell: str, num_layers: int = 2, tied: bool = False) -> LanguageModel:
    torch.manual_seed(0)
    width = 8 if tied else 6
    return LanguageModel(LanguageModelConfig(len(SYMBOLS), width, 8, num_layers, cell, tied)).eval()


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.HALF])
@pytest.mark.parametrize(
    ("cell", "num_layers", "tied"),
    [("lstm", 2, False), ("lstm", 1, True), ("gru", 2, False), ("gru", 1, False), ("rnn_tanh", 3, False)],
)
def test_weights_come_back(cell: str, num_layers: int, tied: bool, precision: Precision, tmp_path: Path) -> None:
    """Weights, vocabulary and provenance are those of the exported model, as exact as they were stored."""
    model = make(cell, num_layers, tied)
    options = ExportOptions(precision=precision)
    export_model(model, tmp_path / "m.onnx", vocabulary=SYMBOLS, options=options, provenance={"corpus": "letters"})

    read, vocabulary, provenance = read_language_model(tmp_path / "m.onnx")

    assert vocabulary == SYMBOLS
    assert provenance["corpus"] == "letters"
    assert read.config.cell == cell
    tolerance = 0.0 if precision is Precision.FLOAT32 else 1e-3
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(read.state_dict()[name], weight, atol=tolerance, rtol=0)


@pytest.mark.parametrize("kind", ["int8", "relu", "cells", "foreign", "broken"])
def test_other_files_are_refused(kind: str, tmp_path: Path) -> None:
    """What holds something else, or the same in a form that cannot be read, is one error that names the file."""
    path = tmp_path / "model.onnx"
    if kind == "int8":
        export_model(make("lstm"), path, options=ExportOptions(precision=Precision.INT8))
    elif kind == "relu":
        export_model(make("rnn_relu"), path)
    elif kind == "cells":
        export_model(make("peephole_lstm"), path)
    elif kind == "foreign":
        save_model(tmp_path, make_feature_model()[0])
    else:
        path.write_bytes(b"no model")

    with pytest.raises(SourceError, match=r"model\.onnx: ") as caught:
        read_language_model(path)

    assert "\n" not in str(caught.value)

"""Gates on request: they are the essay's, they change nothing else, and a server gives them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conveyor.engine.work import Want
from conveyor.graph import read_model
from conveyor_export import ExportOptions, Precision, export_model
from conveyor_export.cells.layers import Stack
from conveyor_export.cells.lstm import SHOWN, LSTMCell
from conveyor_export.cells.registry import ROWS
from conveyor_export.errors import UnsupportedOption, ValueMismatch
from conveyor_export.gates import GatedLanguageModel, cells_of
from conveyor_export.language_model import LanguageModel
from conveyor_export.proof import prove_same
from tests.engine.harness import ManualEngine
from tests.export.cells.stacked import zeros
from tests.export.custom_modules import Tagger
from tests.export.test_export import SYMBOLS, make_language_model

GATES = ExportOptions(gates=True)
SIZE = 6


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def inputs() -> Tensor:
    """A few steps of two sessions."""
    return torch.randn(7, 2, SIZE)


@torch.no_grad()
def test_a_cell_shows_the_essays_gates() -> None:
    """What is shown is what the essay's equations give, each gate from the weights over [h, x]."""
    cell, h, c = LSTMCell(SIZE, SIZE).double(), torch.randn(2, SIZE).double(), torch.randn(2, SIZE).double()
    x = torch.randn(2, SIZE).double()
    weights = {g: torch.cat([gate.R, gate.W], 1).numpy() for g, gate in cell.gates.items()}
    biases = {g: gate.b.numpy() for g, gate in cell.gates.items()}
    _, states, shown = cell.step(x, {"h": h, "c": c})

    together = np.concatenate([h.numpy(), x.numpy()], 1)
    affine = {g: together @ weights[g].T + biases[g] for g in "fico"}
    f, i, o = (1 / (1 + np.exp(-affine[g])) for g in "fio")
    candidate = np.tanh(affine["c"])
    new_c = f * c.numpy() + i * candidate
    for name, expected in zip(SHOWN, (f, i, o, candidate, new_c), strict=True):
        np.testing.assert_allclose(shown[name].numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(states["h"].numpy(), o * np.tanh(new_c), atol=1e-12)


LSTMS = [name for name, row in ROWS.items() if row.make(8, 8, 2, 0.0).shown]


@torch.no_grad()
@pytest.mark.parametrize("name", LSTMS)
def test_what_a_variant_shows_is_what_moved_its_state(name: str) -> None:
    """Of every variant, `c = f c + i candidate` holds of what is shown, a gate that is left out being one."""
    cell = ROWS[name].make(SIZE, SIZE, 1, 0.0)
    for parameter in cell.parameters():
        nn.init.normal_(parameter, std=0.7)
    states = zeros(cell, 2)
    for x in inputs():
        before = states["c0"]
        _, states, shown = cell.step(x, states)
        f, i = (shown.get(f"{gate}0", torch.ones(())) for gate in ("forget", "input"))
        assert list(shown) == list(cell.shown)
        torch.testing.assert_close(f * before + i * shown["candidate0"], shown["cell0"])
        torch.testing.assert_close(states["c0"], shown["cell0"])


def test_gates_that_are_not_there_are_left_out() -> None:
    """A variant without a gate does not show it; of a coupled pair both are shown, and they make one."""
    shown = {name: [each[:-1] for each in ROWS[name].make(4, 4, 1, 0.0).shown] for name in LSTMS}

    for name, gate in (("nfg", "forget"), ("nig", "input"), ("nog", "output")):
        assert shown.pop(name) == [each for each in SHOWN if each != gate]
    assert set(shown) >= {"essay_lstm", "peephole_lstm", "depth_gated_lstm", "fgr", "cifg"}
    assert all(names == list(SHOWN) for names in shown.values())
    cell = ROWS["coupled_lstm"].make(SIZE, SIZE, 1, 0.0)
    _, _, inside = cell.step(inputs()[0], zeros(cell, 2))
    torch.testing.assert_close(inside["forget0"] + inside["input0"], torch.ones(2, SIZE))


@torch.no_grad()
def test_cells_take_over_pytorchs_layers() -> None:
    """Cells made of an `nn.LSTM` give its outputs and final states, layer by layer."""
    lstm = nn.LSTM(SIZE, 5, 3)
    cells, x = cells_of(lstm), inputs()
    expected, (h, c) = lstm(x)
    states, outputs = zeros(cells, 2), []
    for x_BI in x:
        y, states, shown = cells.step(x_BI, states)
        outputs.append(y)

    assert isinstance(cells, Stack)
    torch.testing.assert_close(torch.stack(outputs), expected)
    torch.testing.assert_close(torch.stack([states[f"h{layer}"] for layer in range(3)]), h)
    torch.testing.assert_close(torch.stack([shown[f"cell{layer}"] for layer in range(3)]), c)


@pytest.mark.parametrize("cell", ["lstm", "essay_lstm", "depth_gated_lstm", "nog"])
def test_an_export_offers_them(cell: str, tmp_path: Path) -> None:
    """Every layer's gates are optional outputs of the file; inputs, states and logits are what they were."""
    model = make_language_model(cell, num_layers=2)
    report = export_model(model, tmp_path / "m.onnx", vocabulary=SYMBOLS, options=GATES)
    signature, plain = read_model(tmp_path / "m.onnx").signature, model.signature()
    names = [name for name in SHOWN if (cell, name) != ("nog", "output")]

    assert report.proof.difference < 1e-5
    assert (signature.inputs, signature.states) == (plain.inputs, plain.states)
    assert [spec.name for spec in signature.outputs if not spec.is_optional] == ["logits"]
    gates = [spec for spec in signature.outputs if spec.is_optional]
    assert [spec.name for spec in gates] == [f"{name}{layer}" for layer in range(2) for name in names]
    assert {spec.shape for spec in gates} == {(16,)}


def test_smaller_forms_offer_them_too(tmp_path: Path) -> None:
    """Half weights and int8 are had together with gates."""
    for precision in (Precision.HALF, Precision.INT8):
        options = ExportOptions(precision=precision, gates=True)
        report = export_model(make_language_model(), tmp_path / "m.onnx", vocabulary=SYMBOLS, options=options)

        assert report.cost is not None
        assert "forget0" in {spec.name for spec in read_model(tmp_path / "m.onnx").signature.outputs}


def test_sessions_that_ask_share_runs_with_those_that_do_not(tmp_path: Path) -> None:
    """Served, the gates are PyTorch's own, and the logits of sessions that ask and of others are the model's."""
    model = make_language_model(num_layers=2).eval()
    export_model(model, tmp_path / "m.onnx", vocabulary=SYMBOLS, options=GATES)
    engine = ManualEngine(read_model(tmp_path / "m.onnx").proto)
    texts = {name: np.random.default_rng(seed).integers(0, 12, 9).tolist() for seed, name in enumerate("abc")}
    wants = {"a": ("logits",), "b": ("logits", "forget1", "cell0"), "c": ("candidate0", "logits")}
    for name, text in texts.items():
        engine.open(name)
        engine.chunk(name, text, Want(names=wants[name]), tag=name)
    engine.run_all()

    assert set(engine.batch_sizes) == {3}
    for name, text in texts.items():
        answer, expected = engine.answer(name).outputs, eager(model, text)
        assert sorted(answer) == sorted(wants[name])
        for output, array in answer.items():
            np.testing.assert_allclose(array, expected[output], atol=1e-5)


@torch.no_grad()
def eager(model: LanguageModel, text: list[int]) -> dict[str, Any]:
    """The model's own logits `[T, V]`, and the gates `[T, H]` of the cells that were made of it."""
    tokens = torch.tensor(text)[:, None]
    logits, _ = model({"tokens": tokens}, model.initial_states(1))
    gated, states, steps = GatedLanguageModel(model).eval(), model.initial_states(1), []
    for token in tokens:
        outputs, states = gated({"tokens": token[None]}, states)
        steps.append(outputs)
    gates = {name: torch.cat([step[name][:, 0] for step in steps]).numpy() for name in steps[0]}
    return gates | {"logits": logits["logits"][:, 0].numpy()}


def test_a_cell_that_differs_is_found() -> None:
    """The module with gates is held against the model that it was made from before anything is exported."""
    model = make_language_model().eval().requires_grad_(False)
    gated = GatedLanguageModel(model).eval().requires_grad_(False)
    prove_same(gated, model, 1e-5)
    gated.cell.layers[0].gates["f"].b.data += 0.1

    with pytest.raises(ValueMismatch, match="differs from PyTorch by"):
        prove_same(gated, model, 1e-5)


@pytest.mark.parametrize("cell", ["gru", "rnn_tanh", "essay_gru", "elman"])
def test_layers_without_gates_to_give_are_refused(cell: str, tmp_path: Path) -> None:
    """The refusal names the option and the cell, and no file is written."""
    with pytest.raises(UnsupportedOption, match=f"gates: layers of cell '{cell}' have none to give"):
        export_model(make_language_model(cell), tmp_path / "m.onnx", options=GATES)
    assert not (tmp_path / "m.onnx").exists()


def test_other_modules_are_refused(tmp_path: Path) -> None:
    """A module of the user's own has to offer its gates itself."""
    with pytest.raises(UnsupportedOption, match=r"gates: only a model of conveyor-train .* not Tagger"):
        export_model(Tagger(), tmp_path / "m.onnx", options=GATES)

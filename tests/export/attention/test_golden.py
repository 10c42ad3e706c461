"""The decoders' equations, against an oracle's values and against the papers' equations written out."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from conveyor_export.attention.bahdanau import BahdanauDecoder
from conveyor_export.attention.decoder import BOUNDARY, DecoderSizes
from conveyor_export.attention.show_attend_tell import GreedyShowAttendTell, HardShowAttendTell, ShowAttendTell
from tests.export.cells.test_golden import fill

L, D, M, N = 3, 2, 3, 4
SIZES = DecoderSizes(
    vocabulary_size=7, num_annotations=L, annotation_size=D, embedding_size=M, hidden_size=N, attention_size=D
)
ATTENTION = ["Wa", "ba", "Wd", "va", "wbeta", "bbeta"]
NAMES = [*ATTENTION, *(f"{kind}{gate}" for gate in "ifoc" for kind in "WRZb")]


def oracle(name: str, *shape: int) -> Tensor:
    """The test values of the parameter of this name in the oracle's list."""
    return fill(shape, 1 + NAMES.index(name))


def set_oracle(decoder: ShowAttendTell) -> None:
    attention = decoder.attention
    attention.U.data, attention.b.data = oracle("Wa", D, D), oracle("ba", D)
    attention.W.data, attention.v.data = oracle("Wd", D, N), oracle("va", D)
    decoder.beta.weight.data, decoder.beta.bias.data = oracle("wbeta", 1, N), oracle("bbeta", 1)
    for name, gate in decoder.cell.gates.items():
        gate.W.data = torch.cat([oracle(f"W{name}", N, M), oracle(f"Z{name}", N, D)], 1)
        gate.R.data, gate.b.data = oracle(f"R{name}", N, N), oracle(f"b{name}", N)


def randomise(decoder: nn.Module) -> None:
    """Numbers that leave no bias at zero, in float64."""
    torch.manual_seed(0)
    for parameter in decoder.double().parameters():
        parameter.data = torch.randn_like(parameter)


def test_five_steps_of_soft_attention() -> None:
    """State, weights and gated context of Show, Attend and Tell are the oracle's after five steps from zeros."""
    decoder = ShowAttendTell(SIZES).double()
    set_oracle(decoder)
    annotations = fill((2, L, D), 0, 1)
    seen = {"annotations": annotations, "projected": decoder.attention.project(annotations)}
    states = dict.fromkeys(("h", "c"), torch.zeros(2, N, dtype=torch.float64))
    for y in fill((5, 2, M), 0, 1):
        beta = torch.sigmoid(decoder.beta(states["h"]))
        outputs, states = decoder.step(y, seen, states)

    alpha = outputs["attention"][0]
    assert states["h"][0].tolist() == pytest.approx([-0.191200, -0.280865, -0.299493, 0.075968], abs=1e-6)
    assert alpha.tolist() == pytest.approx([0.297788, 0.314456, 0.387757], abs=1e-6)
    assert (beta[0] * alpha @ annotations[0]).tolist() == pytest.approx([0.114601, -0.035875], abs=1e-6)


def test_opening_and_output_of_show_attend_tell() -> None:
    """First states come from the mean annotation; the scores from the word, the new state and the gated context."""
    decoder = ShowAttendTell(SIZES)
    randomise(decoder)
    annotations = fill((2, L, D), 0, 1)
    opened = decoder.initialise({"annotations": annotations})
    outputs, states = decoder({"tokens": torch.tensor([[3, 5]]), "annotations": annotations, **opened}, opened)

    mean = annotations.sum(1) / L
    for name, layer in (("h", decoder.init_h), ("c", decoder.init_c)):
        assert torch.allclose(opened[name], torch.tanh(mean @ layer.weight.T + layer.bias))
    h, y = opened["h"], decoder.E.weight[[3, 5]]
    e = torch.stack([torch.tanh(opened["projected"][:, i] + h @ decoder.attention.W.T) for i in range(L)], 1)
    alpha = torch.softmax(e @ decoder.attention.v, 1)
    z = torch.sigmoid(decoder.beta(h)) * sum(alpha[:, i, None] * annotations[:, i] for i in range(L))
    inner = y + decoder.L_h(states["h"]) + decoder.L_z(z)
    assert torch.allclose(outputs["attention"][0], alpha)
    assert torch.allclose(outputs["logits"][0], decoder.L_o(torch.tanh(inner)))


def test_one_step_of_bahdanau() -> None:
    """The appendix's equations, written out for one step from the state that the annotations give."""
    decoder = BahdanauDecoder(SIZES)
    randomise(decoder)
    annotations = fill((2, L, D), 0, 1)
    opened = decoder.initialise({"annotations": annotations})
    outputs, states = decoder({"tokens": torch.tensor([[3, 5]]), "annotations": annotations, **opened}, opened)

    s, Ey = opened["s"], decoder.E.weight[[3, 5]]
    assert torch.allclose(s, torch.tanh(decoder.W_s(annotations[:, 0, 1:])))
    a = decoder.attention
    e = torch.stack([torch.tanh(s @ a.W.T + annotations[:, j] @ a.U.T + a.b) @ a.v for j in range(L)], 1)
    alpha = torch.exp(e) / torch.exp(e).sum(1, keepdim=True)
    c = torch.einsum("bl,bld->bd", alpha, annotations)
    x, cell = torch.cat([Ey, c], 1), decoder.cell
    z = torch.sigmoid(x @ cell.z.W.T + s @ cell.z.R.T + cell.z.b)
    r = torch.sigmoid(x @ cell.r.W.T + s @ cell.r.R.T + cell.r.b)
    candidate = torch.tanh(x @ cell.h.W.T + (r * s) @ cell.h.R.T + cell.h.b + cell.recurrent_bias)
    t = decoder.U_o(s) + decoder.V_o(Ey) + decoder.C_o(c)
    maxout = torch.maximum(t[:, 0::2], t[:, 1::2])
    assert torch.allclose(states["s"], (1 - z) * s + z * candidate)
    assert torch.allclose(outputs["attention"][0], alpha)
    assert torch.allclose(outputs["logits"][0], maxout @ decoder.W_o.weight.T + decoder.W_o.bias)


@pytest.mark.parametrize(
    ("glance", "place"), [(0.0, 0), (0.24, 0), (0.25, 1), (0.74, 1), (0.75, 2), (0.99999994, 2), (1.0, 2)]
)
def test_a_glance_inverts_the_distribution(glance: float, place: int) -> None:
    """Hard attention looks at the first place whose cumulated weight exceeds the noise, and at the last beyond all."""
    alpha = torch.tensor([[0.25, 0.5, 0.25]])
    looked, more = HardShowAttendTell(SIZES).look(alpha, {"glance": torch.tensor([glance])})

    assert more["place"].tolist() == [place]
    assert looked.tolist() == [one_hot(torch.tensor(place), 3).tolist()]


def test_glances_are_as_frequent_as_their_weights() -> None:
    """Over evenly spread noise, each annotation is seen as often as its weight says."""
    alpha = torch.tensor([[0.1, 0.6, 0.3]]).expand(1000, 3)
    looked, _ = HardShowAttendTell(SIZES).look(alpha, {"glance": (torch.arange(1000) + 0.5) / 1000})

    assert looked.mean(0).tolist() == pytest.approx([0.1, 0.6, 0.3], abs=1e-6)


def test_hard_attention_sees_one_annotation() -> None:
    """With all weight on the place that was drawn, a step is soft attention's step over that annotation alone."""
    hard, soft = HardShowAttendTell(SIZES), ShowAttendTell(SIZES)
    randomise(hard)
    soft.double().load_state_dict(hard.state_dict())
    annotations = fill((2, L, D), 0, 1)
    opened = hard.initialise({"annotations": annotations})
    tokens, glance = torch.tensor([[3, 5]]), torch.tensor([[0.1, 0.9]], dtype=torch.float64)
    outputs, states = hard({"tokens": tokens, "glance": glance, "annotations": annotations, **opened}, opened)

    place = outputs["place"][0]
    seen = annotations[torch.arange(2), place][:, None].expand(2, L, D)
    expected, after = soft({"tokens": tokens, "annotations": seen, **opened}, opened)
    assert torch.allclose(outputs["logits"], expected["logits"])
    assert all(torch.allclose(states[name], after[name]) for name in states)


def test_greedy_attention_looks_where_most_weight_is() -> None:
    """Without noise, the annotation of the largest weight is seen whole."""
    looked, more = GreedyShowAttendTell(SIZES).look(torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]]), {})

    assert more["place"].tolist() == [1, 0]
    assert looked.tolist() == [[0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize("make", [BahdanauDecoder, ShowAttendTell, HardShowAttendTell])
def test_the_first_word_has_none_before_it(make: type[ShowAttendTell]) -> None:
    """The token that is fed first is embedded as zeros, before training and after a step of it."""
    decoder = make(SIZES)
    annotations = torch.randn(2, L, D)
    opened = decoder.initialise({"annotations": annotations})
    tokens = torch.tensor([[BOUNDARY, BOUNDARY], [3, 5]])
    noise = {spec.name: torch.rand(2, 2) for spec in decoder.noises}
    outputs, _ = decoder({"tokens": tokens, "annotations": annotations, **noise, **opened}, opened)
    outputs["logits"].square().sum().backward()
    torch.optim.SGD(decoder.parameters(), 1.0).step()

    assert not decoder.E.weight[BOUNDARY].any()
    assert decoder.E.weight.grad is not None
    assert decoder.E.weight.grad[3].any()


def test_sizes_are_checked() -> None:
    """The error names the size."""
    with pytest.raises(ValueError, match="num_annotations: expected a positive"):
        DecoderSizes(7, 0, 2)

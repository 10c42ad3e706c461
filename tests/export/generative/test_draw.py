"""DRAW: its two halves, its bound, and the forms that are served."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence

from conveyor_export.generative.draw import DRAW, DRAWConfig
from conveyor_export.generative.easel import Look, Paint
from conveyor_export.generative.window import Window
from conveyor_export.protocol import Tensors
from conveyor_export.shapes import initial_states

T, B, Z = 4, 3, 2
CONFIG = DRAWConfig(height=8, width=6, hidden_size=12, latent_size=Z, read_size=2, write_size=3, num_classes=5)


@pytest.fixture
def draw() -> DRAW:
    torch.manual_seed(0)
    made = DRAW(CONFIG).requires_grad_(False)
    for parameter in made.parameters():  # a first canvas and hidden vectors that are zero would prove nothing
        parameter += 0.1 * torch.randn_like(parameter)
    return made


@pytest.fixture
def given(draw: DRAW) -> Tensors:
    """Images, labels and noise."""
    images = torch.rand(B, CONFIG.height, CONFIG.width).round()
    return {"image": images, "label": torch.eye(CONFIG.num_classes)[:B], "epsilon": torch.randn(T, B, Z)}


def first(form: Paint | Look) -> Tensors:
    return initial_states(form.signature(), B)


def without(tensors: Tensors, name: str) -> Tensors:
    return {key: tensor for key, tensor in tensors.items() if key != name}


def test_sessions_open_with_what_was_learned(draw: DRAW) -> None:
    """The first canvas and hidden vectors are parameters; the cell states begin at zero."""
    states = first(Look(draw))

    torch.testing.assert_close(states["canvas"], draw.canvas.expand(B, -1, -1))
    torch.testing.assert_close(states["h_dec"], draw.h_dec.expand(B, -1))
    torch.testing.assert_close(states["h_enc"], draw.h_enc.expand(B, -1))
    assert not states["c_dec"].any()


def test_the_bound_is_the_last_canvas_and_the_glimpses_that_looked(draw: DRAW, given: Tensors) -> None:
    """Log-likelihood of the bits under the last canvas, less every glimpse's divergence, in any chunks."""
    form = Look(draw)
    states, costs = first(form), []
    for chunk in (slice(0, 1), slice(1, T)):
        outputs, states = form(given | {"epsilon": given["epsilon"][chunk]}, states)
        costs.append(outputs["kl"])

    likelihood = Bernoulli(outputs["picture"][-1]).log_prob(given["image"]).sum((1, 2))
    expected = likelihood - torch.cat(costs).sum(0)
    torch.testing.assert_close(draw.bound(given["image"], given["label"], given["epsilon"]), expected)


def test_the_divergence_of_a_glimpse_is_exact(draw: DRAW, given: Tensors) -> None:
    """One half per latent variable is taken off at each glimpse."""
    states = first(Look(draw))
    _, posterior, _ = draw.infer(given["image"], states)

    outputs, _ = draw.look(given["image"], given["label"], given["epsilon"][0], states)

    normal = Normal(posterior.mean, posterior.deviation)
    expected = kl_divergence(normal, Normal(torch.zeros(B, Z), torch.ones(B, Z))).sum(-1)
    torch.testing.assert_close(outputs["kl"], expected)


def test_painting_is_the_decoder_of_training(draw: DRAW, given: Tensors) -> None:
    """Given the latent variables that looking drew, painting takes the same way to the same canvas."""
    looking, painting, drawn = first(Look(draw)), first(Paint(draw)), []
    for epsilon in given["epsilon"]:
        _, posterior, _ = draw.infer(given["image"], looking)
        drawn.append(posterior.sample(epsilon))
        _, looking = draw.look(given["image"], given["label"], epsilon, looking)

    outputs, painted = Paint(draw)({"label": given["label"], "epsilon": torch.stack(drawn)}, painting)

    for name, state in painted.items():
        torch.testing.assert_close(state, looking[name])
    torch.testing.assert_close(outputs["picture"][-1], looking["canvas"].sigmoid())


def test_each_glimpse_is_written_in_its_window(draw: DRAW, given: Tensors) -> None:
    """A step adds to the canvas the patch of the hidden vector, written through the window that comes with it."""
    form, states = Paint(draw), first(Paint(draw))
    inputs = without(given, "image") | {"epsilon": given["epsilon"][:1]}
    outputs, after = form(inputs, states)
    patch = draw.patch(after["h_dec"]).unflatten(-1, (CONFIG.write_size, CONFIG.write_size))

    written = draw.write.write(Window(*outputs["window"][0].unbind(-1)), patch)

    torch.testing.assert_close(after["canvas"], states["canvas"] + written)
    torch.testing.assert_close(outputs["picture"][0], after["canvas"].sigmoid())


def test_reading_sees_what_is_missing(draw: DRAW, given: Tensors) -> None:
    """A canvas that already is the image leaves no error to read; the glimpse then reads zeros beside the image."""
    seen: list[Tensor] = []
    draw.encoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    image, states = given["image"] * 0.8 + 0.1, first(Look(draw))

    draw.infer(image, states | {"canvas": torch.logit(image)})

    num_read = CONFIG.read_size**2
    torch.testing.assert_close(seen[0][:, num_read : 2 * num_read], torch.zeros(B, num_read), atol=1e-6, rtol=0)
    assert seen[0][:, :num_read].all()


def test_a_label_changes_what_is_painted(draw: DRAW, given: Tensors) -> None:
    """The same noise paints another picture of another class."""
    one, _ = Paint(draw)(without(given, "image"), first(Paint(draw)))
    other, _ = Paint(draw)(without(given, "image") | {"label": given["label"].roll(1, 0)}, first(Paint(draw)))

    assert not torch.allclose(one["picture"], other["picture"])


def test_without_classes_no_label_is_asked_for() -> None:
    """The paper's own model takes noise alone."""
    form = Paint(DRAW(DRAWConfig()))

    assert [spec.name for spec in form.signature().fed] == ["epsilon"]


def test_a_window_of_one_filter_is_refused() -> None:
    """It would have no stride; the error names the field."""
    with pytest.raises(ValueError, match="read_size: a window needs two filters a side, got 1"):
        DRAWConfig(read_size=1)


def test_number_of_parameters() -> None:
    """It is the paper's: windows, LSTMs, q(z) and patch, and the first canvas and hidden vectors."""
    H, Z, N = 32, 4, 3
    made = DRAW(DRAWConfig(8, 6, hidden_size=H, latent_size=Z, read_size=N, write_size=N))

    encoder, decoder = 4 * H * (2 * N**2 + H + H + 1), 4 * H * (Z + H + 1)
    reading, writing = 5 * (H + 1), (N**2 + 5) * (H + 1)
    expected = reading + encoder + 2 * Z * (H + 1) + decoder + writing + 8 * 6 + 2 * H
    assert sum(parameter.numel() for parameter in made.parameters()) == expected

"""DRAW (Gregor and others, 2015): an image is painted on a canvas, glimpse by glimpse."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from conveyor_export.cells.lstm import LSTMCell
from conveyor_export.generative.gaussian import Gaussian, standard
from conveyor_export.generative.likelihoods import counts_log_likelihood
from conveyor_export.generative.sequence_model import join
from conveyor_export.generative.window import Attention, Window
from conveyor_export.protocol import Tensors
from conveyor_export.ranges import check_positive

PAPER = -3.0  # an empty pixel in logits: what the first canvas is before it is learned


@dataclass(frozen=True, slots=True)
class DRAWConfig:
    """Sizes, lengths in pixels. With `num_classes` the decoder is told which class it paints, as a one-hot vector.

    `pixel_bits` is how many bits a pixel stands for: its grey is the share of them that are black.
    """

    height: int = 8
    width: int = 8
    hidden_size: int = 64
    latent_size: int = 8
    read_size: int = 3
    write_size: int = 3
    num_classes: int = 0
    pixel_bits: int = 1

    def __post_init__(self) -> None:
        check_positive(self, "height", "width", "hidden_size", "latent_size", "pixel_bits")
        for name in ("read_size", "write_size"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name}: a window needs two filters a side, got {getattr(self, name)}")


class DRAW(nn.Module):
    """One step is one glimpse. `paint` is the generating half, `look` reads an image first and infers what to paint.

    Shapes: image and canvas `[B, height, width]`, the canvas in logits; label `[B, num_classes]`; z and epsilon
    `[B, Z]`; hidden vectors and cell states `[B, H]`. The first canvas and hidden vectors are learned.
    """

    def __init__(self, config: DRAWConfig) -> None:
        super().__init__()
        H, Z, shape = config.hidden_size, config.latent_size, (config.height, config.width)
        self.config = config
        self.read, self.write = (Attention(H, shape, N) for N in (config.read_size, config.write_size))
        self.encoder = LSTMCell(2 * config.read_size**2 + H, H)
        self.decoder = LSTMCell(Z + config.num_classes, H)
        self.mean, self.log_deviation = nn.Linear(H, Z), nn.Linear(H, Z)
        self.patch = nn.Linear(H, config.write_size**2)
        self.canvas = nn.Parameter(torch.full(shape, PAPER))
        self.h_dec, self.h_enc = nn.Parameter(torch.zeros(H)), nn.Parameter(torch.zeros(H))

    def first_states(self) -> Tensors:
        """What a session that looks opens with, each state without its batch axis."""
        c_dec, c_enc = torch.zeros_like(self.h_dec), torch.zeros_like(self.h_enc)
        return {"canvas": self.canvas, "h_dec": self.h_dec, "c_dec": c_dec, "h_enc": self.h_enc, "c_enc": c_enc}

    def paint(self, z_BZ: Tensor, label: Tensor, states: Tensors) -> tuple[Window, Tensors]:
        """The decoder's half of a glimpse: where it writes, and the states `canvas`, `h_dec` and `c_dec` after it."""
        h, after = self.decoder(join(z_BZ, label), {"h": states["h_dec"], "c": states["c_dec"]})
        window = self.write(h)
        patch = self.patch(h).unflatten(-1, (self.config.write_size, self.config.write_size))
        canvas = states["canvas"] + self.write.write(window, patch)
        return window, {"canvas": canvas, "h_dec": h, "c_dec": after["c"]}

    def infer(self, image: Tensor, states: Tensors) -> tuple[Window, Gaussian, Tensors]:
        """The encoder's half: where it reads, q(z), and the states `h_enc` and `c_enc` after it."""
        error = image - torch.sigmoid(states["canvas"])
        window = self.read(states["h_dec"])
        r = join(*(self.read.read(window, each).flatten(1) for each in (image, error)))
        h, after = self.encoder(join(r, states["h_dec"]), {"h": states["h_enc"], "c": states["c_enc"]})
        posterior = Gaussian(self.mean(h), torch.exp(self.log_deviation(h)))
        return window, posterior, {"h_enc": h, "c_enc": after["c"]}

    def look(self, image: Tensor, label: Tensor, epsilon_BZ: Tensor, states: Tensors) -> tuple[Tensors, Tensors]:
        """A glimpse that infers: `kl` `[B]` in nats, `read_window` and `window` `[B, 5]`, and all states after it."""
        read_window, posterior, encoder = self.infer(image, states)
        window, decoder = self.paint(posterior.sample(epsilon_BZ), label, states)
        kl = posterior.divergence(standard(posterior))
        return {"kl": kl, "read_window": read_window.numbers(), "window": window.numbers()}, decoder | encoder

    def bound(self, image: Tensor, label: Tensor, epsilon_TBZ: Tensor) -> Tensor:
        """A lower bound `[B]`, in nats, on the log-likelihood of images painted in T glimpses."""
        states = {name: first.expand(len(image), *first.shape) for name, first in self.first_states().items()}
        kl = image.new_zeros(len(image))
        for epsilon_BZ in epsilon_TBZ.unbind():
            found, states = self.look(image, label, epsilon_BZ, states)
            kl = kl + found["kl"]
        return counts_log_likelihood(states["canvas"], image, self.config.pixel_bits).sum((1, 2)) - kl

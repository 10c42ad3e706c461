"""The decoder of Xu and others, "Show, Attend and Tell" (2015), with its soft and its hard attention."""

import torch
from torch import Tensor, nn

from conveyor.signature import NoiseSpec, OutputSpec
from conveyor_export.attention.additive import expected
from conveyor_export.attention.decoder import Decoder, DecoderSizes
from conveyor_export.cells.lstm import LSTMCell
from conveyor_export.protocol import Tensors
from conveyor_export.steps import STEPS


class ShowAttendTell(Decoder):
    """An LSTM that reads the last word and a mean of the annotations, gated by one number; soft attention.

    The output layer has the tanh of the released code, which the paper does not print.
    """

    state_names = ("h", "c")

    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__(sizes)
        m, n, annotation = sizes.embedding_size, sizes.hidden_size, sizes.annotation_size
        self.init_h, self.init_c = nn.Linear(annotation, n), nn.Linear(annotation, n)
        self.beta = nn.Linear(n, 1)
        self.cell = LSTMCell(m + annotation, n)
        self.L_h, self.L_z = nn.Linear(n, m), nn.Linear(annotation, m)
        self.L_o = nn.Linear(m, sizes.vocabulary_size)

    def first_states(self, annotations_BLD: Tensor) -> Tensors:
        mean_BD = annotations_BLD.mean(1)
        return {"h": torch.tanh(self.init_h(mean_BD)), "c": torch.tanh(self.init_c(mean_BD))}

    def step(self, y_BM: Tensor, seen: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        alpha = self.attention(seen["projected"], states["h"])
        looked_BL, more = self.look(alpha, seen)
        z = torch.sigmoid(self.beta(states["h"])) * expected(looked_BL, seen["annotations"])
        h, states = self.cell(torch.cat([y_BM, z], 1), states)
        logits = self.L_o(torch.tanh(y_BM + self.L_h(h) + self.L_z(z)))
        return {"logits": logits, "attention": alpha, **more}, states

    def look(self, alpha_BL: Tensor, seen: Tensors) -> tuple[Tensor, Tensors]:
        """The share of each annotation in what the step sees, `[B, L]`, and what to tell of it."""
        return alpha_BL, {}


class HardShowAttendTell(ShowAttendTell):
    """The same with hard attention: a step sees one annotation, drawn with the weights as probabilities.

    The output `place` is the one's index. It is drawn by inverting the cumulative distribution at the noise `glance`,
    so the same noise looks at the same place.
    """

    noises: tuple[NoiseSpec, ...] = (NoiseSpec("glance", "float32", (), STEPS, distribution="uniform"),)
    more_outputs = (OutputSpec("place", "int64", (), STEPS),)

    def look(self, alpha_BL: Tensor, seen: Tensors) -> tuple[Tensor, Tensors]:
        passed_BL = (alpha_BL.cumsum(1) <= seen["glance"][:, None]).to(alpha_BL.dtype)
        # Weights that add up to a little less than 1 must not send the largest numbers beyond the last place.
        return self.at(passed_BL.sum(1).clamp(max=alpha_BL.shape[1] - 1), alpha_BL)

    def at(self, place_B: Tensor, alpha_BL: Tensor) -> tuple[Tensor, Tensors]:
        """Everything on one place."""
        places_L = torch.arange(alpha_BL.shape[1], dtype=place_B.dtype)
        one_hot_BL = (places_L == place_B[:, None]).to(alpha_BL.dtype)
        return one_hot_BL, {"place": place_B.to(torch.int64)}


class GreedyShowAttendTell(HardShowAttendTell):
    """Hard attention that sees the annotation of the largest weight, and draws nothing."""

    noises = ()

    def look(self, alpha_BL: Tensor, seen: Tensors) -> tuple[Tensor, Tensors]:
        return self.at(alpha_BL.argmax(1), alpha_BL)

"""The decoder of Bahdanau, Cho and Bengio, "Neural Machine Translation by Jointly Learning to Align and Translate"."""

import torch
from torch import Tensor, nn

from conveyor_export.attention.additive import expected
from conveyor_export.attention.decoder import Decoder, DecoderSizes
from conveyor_export.cells.gru import GRUCell
from conveyor_export.protocol import Tensors

PIECES = 2  # a maxout unit is the larger of so many


class BahdanauDecoder(Decoder):
    """A GRU that reads the last word and a mean of the annotations (the paper's appendix A.2).

    Annotations are those of a bidirectional encoder: their first half was read forwards, their second half backwards,
    and the state begins with what was read backwards of the first place. The score and the output layer look at the
    state before the step, as the appendix has it.
    """

    state_names = ("s",)

    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__(sizes)
        m, n, annotation = sizes.embedding_size, sizes.hidden_size, sizes.annotation_size
        self.W_s = nn.Linear(annotation - annotation // 2, n)
        self.cell = GRUCell(m + annotation, n)
        self.U_o, self.V_o, self.C_o = (nn.Linear(size, PIECES * m) for size in (n, m, annotation))
        self.W_o = nn.Linear(m, sizes.vocabulary_size)

    def first_states(self, annotations_BLD: Tensor) -> Tensors:
        backwards_BD = annotations_BLD[:, 0, self.sizes.annotation_size // 2 :]
        return {"s": torch.tanh(self.W_s(backwards_BD))}

    def step(self, y_BM: Tensor, seen: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        s = states["s"]
        alpha = self.attention(seen["projected"], s)
        c = expected(alpha, seen["annotations"])
        t = (self.U_o(s) + self.V_o(y_BM) + self.C_o(c)).unflatten(1, (-1, PIECES)).amax(2)
        s, _ = self.cell(torch.cat([y_BM, c], 1), {"h": s})
        return {"logits": self.W_o(t), "attention": alpha}, {"s": s}

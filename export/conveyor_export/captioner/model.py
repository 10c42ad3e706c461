"""The captioner: an image in, and the letters of what it shows, each with the places that were looked at for it."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from conveyor.signature import ContextSpec, Signature
from conveyor_export.attention.decoder import DecoderSizes
from conveyor_export.attention.show_attend_tell import ShowAttendTell
from conveyor_export.digits import SIDE, SYMBOLS
from conveyor_export.protocol import Tensors
from conveyor_export.steps import SESSION

SIZES = DecoderSizes(len(SYMBOLS), num_annotations=SIDE * SIDE, annotation_size=32)


class Encoder(nn.Module):
    """Annotations `[B, 64, D]` of images `[B, 8, 8]`: one for each pixel, of the 5 by 5 around it and of its place."""

    def __init__(self, annotation_size: int) -> None:
        super().__init__()
        narrow, wide = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, annotation_size, 3, padding=1)
        self.layers = nn.Sequential(narrow, nn.ReLU(), wide, nn.ReLU())
        self.places = nn.Parameter(0.1 * torch.randn(SIDE * SIDE, annotation_size))

    def forward(self, image_BSS: Tensor) -> Tensor:
        seen_BDSS: Tensor = self.layers(image_BSS[:, None])
        return seen_BDSS.flatten(2).transpose(1, 2) + self.places


class Captioner(nn.Module):
    """Show, Attend and Tell behind its encoder. A client gives the image; the annotations are computed from it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder(SIZES.annotation_size)
        self.decoder = ShowAttendTell(SIZES)

    def signature(self) -> Signature:
        """The decoder's, with the image as the context that is given."""
        signature = self.decoder.signature()
        annotations, projected = signature.contexts
        image = ContextSpec("image", "float32", (SIDE, SIDE), SESSION)
        computed = replace(annotations, initialiser="annotations_first")
        return replace(signature, contexts=(image, computed, projected))

    def initialise(self, contexts: Tensors) -> Tensors:
        """Annotations of the image, and what the decoder makes of them."""
        annotations = {"annotations": self.encoder(contexts["image"])}
        return annotations | self.decoder.initialise(annotations)

    def forward(self, inputs: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        """Consumes `tokens` from `states` on."""
        outputs, new_states = self.decoder(inputs, states)
        return outputs, new_states

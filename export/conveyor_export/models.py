"""The architectures that are more than a cell, in small sizes: `make zoo` measures each beside the cells."""

from collections.abc import Callable
from functools import partial

from torch import nn

from conveyor_export.attention.bahdanau import BahdanauDecoder
from conveyor_export.attention.decoder import DecoderSizes
from conveyor_export.attention.show_attend_tell import GreedyShowAttendTell, HardShowAttendTell, ShowAttendTell

_DECODER = DecoderSizes(vocabulary_size=32, num_annotations=9, annotation_size=24)

MODELS: dict[str, Callable[[], nn.Module]] = {
    "bahdanau": partial(BahdanauDecoder, _DECODER),
    "xu_soft": partial(ShowAttendTell, _DECODER),
    "xu_hard": partial(HardShowAttendTell, _DECODER),
    "xu_argmax": partial(GreedyShowAttendTell, _DECODER),
}

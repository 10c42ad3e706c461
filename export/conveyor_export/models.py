"""The architectures that are more than a cell, in small sizes: `make zoo` measures each beside the cells."""

from collections.abc import Callable
from functools import partial

from torch import nn

from conveyor_export.attention.bahdanau import BahdanauDecoder
from conveyor_export.attention.decoder import DecoderSizes
from conveyor_export.attention.show_attend_tell import GreedyShowAttendTell, HardShowAttendTell, ShowAttendTell
from conveyor_export.generative.draw import DRAW, DRAWConfig
from conveyor_export.generative.easel import Look, Paint
from conveyor_export.generative.forms import Generate, Score
from conveyor_export.generative.sequence_model import Sizes
from conveyor_export.generative.storn import STORN
from conveyor_export.generative.vrnn import VRNN

_DECODER = DecoderSizes(vocabulary_size=32, num_annotations=9, annotation_size=24)
_REAL, _BITS = Sizes(8, 4, 32, "real"), Sizes(8, 4, 32, "bits")
_DRAW, _DRAW_OF_CLASSES = DRAWConfig(8, 6, 32, 4), DRAWConfig(8, 6, 32, 4, num_classes=3)

MODELS: dict[str, Callable[[], nn.Module]] = {
    "bahdanau": partial(BahdanauDecoder, _DECODER),
    "xu_soft": partial(ShowAttendTell, _DECODER),
    "xu_hard": partial(HardShowAttendTell, _DECODER),
    "xu_argmax": partial(GreedyShowAttendTell, _DECODER),
    "vrnn": lambda: Generate(VRNN(_BITS)),
    "vrnn_score": lambda: Score(VRNN(_BITS)),
    "storn": lambda: Generate(STORN(_REAL)),
    "storn_score": lambda: Score(STORN(_REAL)),
    "draw": lambda: Paint(DRAW(_DRAW)),
    "draw_class": lambda: Paint(DRAW(_DRAW_OF_CLASSES)),
    "draw_look": lambda: Look(DRAW(_DRAW)),
}

"""The generative models by name, in small sizes, each in a form that can be served."""

from collections.abc import Callable

from torch import nn

from conveyor_export.generative.draw import DRAW, DRAWConfig
from conveyor_export.generative.easel import Look, Paint
from conveyor_export.generative.forms import Generate, Score
from conveyor_export.generative.sequence_model import Sizes
from conveyor_export.generative.storn import STORN
from conveyor_export.generative.vrnn import VRNN

_REAL, _BITS = Sizes(8, 4, 32, "real"), Sizes(8, 4, 32, "bits")
_DRAW, _DRAW_OF_CLASSES = DRAWConfig(8, 6, 32, 4), DRAWConfig(8, 6, 32, 4, num_classes=3)

GENERATIVE: dict[str, Callable[[], nn.Module]] = {
    "vrnn": lambda: Generate(VRNN(_REAL)),
    "vrnn_score": lambda: Score(VRNN(_REAL)),
    "storn": lambda: Generate(STORN(_BITS)),
    "storn_score": lambda: Score(STORN(_BITS)),
    "draw": lambda: Paint(DRAW(_DRAW)),
    "draw_class": lambda: Paint(DRAW(_DRAW_OF_CLASSES)),
    "draw_look": lambda: Look(DRAW(_DRAW)),
}

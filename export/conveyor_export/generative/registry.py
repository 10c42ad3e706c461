"""The generative rows by name: each a form that can be exported as it is, at small sizes, with random weights."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from conveyor_export.generative.draw import DRAW, DRAWConfig
from conveyor_export.generative.easel import Look, Paint
from conveyor_export.generative.forms import Generate, Score
from conveyor_export.generative.sequence_model import Sizes
from conveyor_export.generative.storn import STORN
from conveyor_export.generative.vrnn import VRNN


@dataclass(frozen=True, slots=True)
class Row:
    """A served form: what it is, and how to make one."""

    about: str
    make: Callable[[], nn.Module]


_REAL, _BITS = Sizes(8, 4, 32, "real"), Sizes(8, 4, 32, "bits")
_UNTOLD, _TOLD = DRAWConfig(8, 6, 32, 4), DRAWConfig(8, 6, 32, 4, num_classes=3)

ROWS: dict[str, Row] = {
    "vrnn": Row("VRNN: draws a sequence of real numbers", lambda: Generate(VRNN(_REAL))),
    "vrnn_score": Row("VRNN: scores a sequence of real numbers", lambda: Score(VRNN(_REAL))),
    "storn": Row("STORN: draws a sequence of bits", lambda: Generate(STORN(_BITS))),
    "storn_score": Row("STORN: scores a sequence of bits", lambda: Score(STORN(_BITS))),
    "draw": Row("DRAW: paints an image, a glimpse a step", lambda: Paint(DRAW(_UNTOLD))),
    "draw_class": Row("DRAW: paints an image of a class", lambda: Paint(DRAW(_TOLD))),
    "draw_look": Row("DRAW: looks at an image and paints it anew", lambda: Look(DRAW(_UNTOLD))),
}

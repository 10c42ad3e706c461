"""The architectures by name. A new one is a file with its cell, and a line here."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from conveyor_export.cells.cell import Cell
from conveyor_export.cells.clockwork import ClockworkCell
from conveyor_export.cells.delta_net import GatedDeltaNetCell
from conveyor_export.cells.depth_gated import DepthGatedLSTM
from conveyor_export.cells.elman import ElmanCell
from conveyor_export.cells.full_gate_recurrence import FullGateRecurrenceCell
from conveyor_export.cells.grid import GridLSTMLayers
from conveyor_export.cells.gru import GRUCell
from conveyor_export.cells.layers import Stack
from conveyor_export.cells.lstm import LSTMCell
from conveyor_export.cells.mamba import Mamba2Cell, MambaCell
from conveyor_export.cells.minimal import MinGRUCell, MinLSTMCell
from conveyor_export.cells.mut import MUTCell
from conveyor_export.cells.rg_lru import RGLRUCell
from conveyor_export.cells.rwkv import RWKV7Cell
from conveyor_export.cells.xlstm import MLSTMCell, SLSTMCell


@dataclass(frozen=True, slots=True)
class Row:
    """An architecture: what it is, and how to make layers of it from input size, hidden size, their number, dropout."""

    about: str
    make: Callable[[int, int, int, float], Cell]


_vanilla = partial(LSTMCell, peepholes="ifo")

ROWS: dict[str, Row] = {
    "elman": Row("tanh RNN", partial(Stack, ElmanCell)),
    "essay_lstm": Row("the essay's LSTM, forget bias 1", partial(Stack, LSTMCell)),
    "essay_gru": Row("the essay's GRU: reset before the product", partial(Stack, GRUCell)),
    "gru_reset_after": Row("GRU with the reset on the product", partial(Stack, partial(GRUCell, reset_after=True))),
    "peephole_lstm": Row("peepholes on all gates: Greff's vanilla LSTM", partial(Stack, _vanilla)),
    "output_peephole_lstm": Row("a peephole on the output gate", partial(Stack, partial(LSTMCell, peepholes="o"))),
    "coupled_lstm": Row("the essay's coupled gates", partial(Stack, partial(LSTMCell, coupled="f"))),
    "depth_gated_lstm": Row("cell states also flow up, through a gate", DepthGatedLSTM),
    "clockwork_rnn": Row("modules that tick every 1, 2, 4 and 8 steps", partial(Stack, ClockworkCell)),
    "nig": Row("Greff: no input gate", partial(Stack, partial(_vanilla, open_gates="i"))),
    "nfg": Row("Greff: no forget gate", partial(Stack, partial(_vanilla, open_gates="f"))),
    "nog": Row("Greff: no output gate", partial(Stack, partial(_vanilla, open_gates="o"))),
    "niaf": Row("Greff: no input activation", partial(Stack, partial(_vanilla, squash_input=False))),
    "noaf": Row("Greff: no output activation", partial(Stack, partial(_vanilla, squash_output=False))),
    "np": Row("Greff: no peepholes", partial(Stack, LSTMCell)),
    "cifg": Row("Greff: coupled input and forget gate", partial(Stack, partial(_vanilla, coupled="i"))),
    "fgr": Row("Greff: full gate recurrence", partial(Stack, FullGateRecurrenceCell)),
    "mut1": Row("Jozefowicz: the first mutation", partial(Stack, partial(MUTCell, kind=1))),
    "mut2": Row("Jozefowicz: the second; input size = hidden size", partial(Stack, partial(MUTCell, kind=2))),
    "mut3": Row("Jozefowicz: the third", partial(Stack, partial(MUTCell, kind=3))),
    "grid_lstm": Row("LSTMs along time and along depth", GridLSTMLayers),
    "min_gru": Row("gates that see the input alone", partial(Stack, MinGRUCell)),
    "min_lstm": Row("the same with two gates", partial(Stack, MinLSTMCell)),
    "slstm": Row("xLSTM: exponential gates, normalised", partial(Stack, SLSTMCell)),
    "mlstm": Row("xLSTM: a matrix as memory", partial(Stack, MLSTMCell)),
    "rwkv7": Row("RWKV-7: time and channel mix of one layer", partial(Stack, RWKV7Cell)),
    "mamba": Row("a linear recurrence that the input steers", partial(Stack, MambaCell)),
    "mamba2": Row("the same with one decay a head", partial(Stack, Mamba2Cell)),
    "rg_lru": Row("Griffin's real-gated linear recurrent unit", partial(Stack, RGLRUCell)),
    "gated_delta_net": Row("a memory that is corrected and decays", partial(Stack, GatedDeltaNetCell)),
}

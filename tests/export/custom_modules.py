"""Modules that follow the export protocol in ways that the language model does not."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from conveyor.signature import Axis, ContextSpec, OutputSpec, Signature, StateSpec, TensorSpec

STEPS = Axis(batch=1, time=0)
Tensors = dict[str, Tensor]


class Tagger(nn.Module):
    """Batch-first features through a batch-first GRU without biases; a step counter beside its state."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 6, num_layers=2, batch_first=True, bias=False)
        self.head = nn.Linear(6, 4)

    def signature(self) -> Signature:
        steps = Axis(batch=0, time=1)
        return Signature(
            inputs=(TensorSpec("features", "float32", (3,), steps),),
            states=(
                StateSpec("h", "float32", (2, 6), Axis(batch=1), output="hn"),
                StateSpec("count", "int64", (), Axis(batch=0), output="count_out", initial=(5.0,)),
            ),
            outputs=(OutputSpec("tags", "float32", (4,), steps),),
        )

    def forward(self, inputs: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        hidden, h = self.rnn(inputs["features"], states["h"])
        return {"tags": self.head(hidden)}, {"h": h, "count": states["count"] + inputs["features"].shape[1]}


class CellLoop(nn.Module):
    """A Python loop over an LSTMCell: PyTorch cannot trace it for any number of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(3, 5)
        self.signature = Signature(
            inputs=(TensorSpec("x", "float32", (3,), STEPS),),
            states=tuple(StateSpec(name, "float32", (5,), Axis(batch=0), output=f"{name}1") for name in "hc"),
            outputs=(OutputSpec("y", "float32", (5,), STEPS),),
        )

    def forward(self, inputs: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        h, c, ys = states["h"], states["c"], []
        for x_BF in inputs["x"]:
            h, c = self.cell(x_BF, (h, c))
            ys.append(h)
        return {"y": torch.stack(ys)}, {"h": h, "c": c}


class Stepper(nn.Module):
    """No time axis and a context: one step per run, by construction."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(6, 4)
        self.signature = Signature(
            inputs=(TensorSpec("x", "float32", (2,), Axis(batch=0)),),
            contexts=(ContextSpec("picture", "float32", (4,), Axis(batch=0)),),
            states=(StateSpec("s", "float32", (4,), Axis(batch=0), output="s_out"),),
            outputs=(OutputSpec("y", "float32", (4,), Axis(batch=0)),),
        )

    def forward(self, inputs: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        s = torch.tanh(states["s"] + self.mix(torch.cat([inputs["x"], inputs["picture"]], dim=1)))
        return {"y": s * 2}, {"s": s}


class Opened(nn.Module):
    """A loop over steps whose first states and second context come from the context that a client gives.

    The step reads the given context through the computed one alone; its second state starts at zeros.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.look = nn.GRUCell(3 + 6, 5), nn.Linear(4, 6)
        self.first = nn.Linear(4, 5)

    def signature(self) -> Signature:
        return Signature(
            inputs=(TensorSpec("x", "float32", (3,), STEPS),),
            contexts=(
                ContextSpec("seen", "float32", (6,), Axis(batch=0), initialiser="seen_first"),
                ContextSpec("picture", "float32", (4,), Axis(batch=0)),
            ),
            states=(
                StateSpec("h", "float32", (1, 5), Axis(batch=1), output="h_out", initialiser="h_first"),
                StateSpec("count", "int64", (), Axis(batch=0), output="count_out"),
            ),
            outputs=(OutputSpec("y", "float32", (5,), STEPS),),
        )

    def initialise(self, contexts: Tensors) -> Tensors:
        picture = contexts["picture"]
        return {"h": torch.tanh(self.first(picture))[None], "seen": torch.relu(self.look(picture))}

    def forward(self, inputs: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        h, ys = states["h"][0], []
        for x_BF in inputs["x"]:
            h = self.cell(torch.cat([x_BF, inputs["seen"]], 1), h)
            ys.append(h)
        return {"y": torch.stack(ys)}, {"h": h[None], "count": states["count"] + len(ys)}


class RunningSum(nn.Module):
    """The protocol's own example: no weights at all."""

    signature = Signature(
        inputs=(TensorSpec("features", "float32", (8,), STEPS),),
        states=(StateSpec("sum", "float32", (8,), Axis(batch=0), output="sum_out"),),
        outputs=(OutputSpec("sums", "float32", (8,), STEPS),),
    )

    def forward(self, inputs: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        sums_TBF = states["sum"] + inputs["features"].cumsum(0)
        return {"sums": sums_TBF}, {"sum": sums_TBF[-1]}


class Wrapped(nn.Module):
    """Any recurrent layer from 3 features to its hidden state, with an LSTM's state names."""

    def __init__(self, rnn: nn.RNNBase, forgetful: bool = False) -> None:
        super().__init__()
        self.rnn, self.forgetful = rnn, forgetful

    def signature(self) -> Signature:
        layers = self.rnn.num_layers * (2 if self.rnn.bidirectional else 1)
        width = self.rnn.proj_size or self.rnn.hidden_size
        sizes = {"h": width, "c": self.rnn.hidden_size}
        return Signature(
            inputs=(TensorSpec("x", "float32", (3,), STEPS),),
            states=tuple(
                StateSpec(name, "float32", (layers, size), Axis(batch=1), output=f"{name}_out")
                for name, size in sizes.items()
            ),
            outputs=(OutputSpec("y", "float32", (width * (2 if self.rnn.bidirectional else 1),), STEPS),),
        )

    def forward(self, inputs: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        carried = None if self.forgetful else (states["h"], states["c"])
        y, (h, c) = self.rnn(inputs["x"], carried)
        return {"y": y}, {"h": h, "c": c}


class ProjectedLSTM(nn.LSTM):
    """A subclass with a forward of its own, which the exporter leaves to PyTorch."""

    def forward(self, x: Tensor, states: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return super().forward(x, states)


class Shared(nn.Module):
    """One recurrent layer under two names, which reads its own output with a second state."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.GRU(3, 3)
        self.second = self.first
        self.signature = Signature(
            inputs=(TensorSpec("x", "float32", (3,), STEPS),),
            states=tuple(StateSpec(name, "float32", (1, 3), Axis(batch=1), output=f"{name}1") for name in "ab"),
            outputs=(OutputSpec("y", "float32", (3,), STEPS),),
        )

    def forward(self, inputs: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        hidden, a = self.first(inputs["x"], states["a"])
        y, b = self.second(hidden, states["b"])
        return {"y": y}, {"a": a, "b": b}


class TokenTagger(nn.Module):
    """Tags for tokens of an embedding of ten rows; the last token is what the caller says it is."""

    def __init__(self, max_token: int | None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 3)
        self.signature = Signature(
            inputs=(TensorSpec("tokens", "int64", (), STEPS),),
            states=(),
            outputs=(OutputSpec("tags", "float32", (3,), STEPS),),
            max_token=max_token,
        )

    def forward(self, inputs: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        return {"tags": self.embedding(inputs["tokens"])}, states


class Returning(RunningSum):
    """Answers with whatever `make` makes of the right answer."""

    def __init__(self, make: Callable[[Tensors, Tensors], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, inputs: Tensors, states: Tensors) -> Any:
        return self.make(*super().forward(inputs, states))


def make_tagger() -> nn.Module:
    """What `module:attribute` names in the command line's tests."""
    torch.manual_seed(3)
    return Tagger()


cell_loop = CellLoop()


def not_a_module() -> int:
    """Returns what cannot be exported."""
    return 3


def complains() -> nn.Module:
    """Raises what takes two lines to say."""
    raise ValueError("not today,\nnor tomorrow")

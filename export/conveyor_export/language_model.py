"""The language model that Conveyor trains and exports: embedding, recurrent layers, projection to the vocabulary."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from conveyor.signature import Axis, OutputSpec, Signature, StateSpec, TensorSpec
from conveyor_export.cells.layers import Steps
from conveyor_export.cells.native import native_layers
from conveyor_export.cells.registry import ROWS
from conveyor_export.ranges import check_dropout, check_positive
from conveyor_export.shapes import initial_states

# PyTorch's own layers; the architectures of `cells/registry.py` come beside them.
NATIVE: dict[str, Any] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn_tanh": nn.RNN, "rnn_relu": nn.RNN}
CELLS = (*NATIVE, *ROWS)


@dataclass(frozen=True, slots=True)
class LanguageModelConfig:
    """Sizes of a language model, and what it drops while it is trained.

    With `tied`, embedding and projection share weights, so their widths must be equal. `dropout` is of features,
    `weight_dropout` of recurrent weights.
    """

    vocabulary_size: int
    embedding_size: int = 128
    hidden_size: int = 512
    num_layers: int = 2
    cell: str = "lstm"
    tied: bool = False
    dropout: float = 0.0
    weight_dropout: float = 0.0

    def __post_init__(self) -> None:
        check_positive(self, "vocabulary_size", "embedding_size", "hidden_size", "num_layers")
        check_dropout(self, "dropout", "weight_dropout")
        if self.cell not in CELLS:
            raise ValueError(f"cell: expected one of {', '.join(CELLS)}, got {self.cell!r}")
        if self.tied and self.embedding_size != self.hidden_size:
            raise ValueError(f"tied: embedding_size {self.embedding_size} differs from hidden_size {self.hidden_size}")


class LockedDropout(nn.Module):
    """Drops the same features at every step of a window: one mask `[1, B, F]` (Gal and Ghahramani, 2016)."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x_TBF: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x_TBF
        kept = 1 - self.probability
        return x_TBF * x_TBF.new_empty(1, *x_TBF.shape[1:]).bernoulli_(kept).div_(kept)


class LanguageModel(nn.Module):
    """Predicts the next token at every step.

    Shapes: tokens `[T, B]` int64, logits `[T, B, vocabulary_size]`. States of PyTorch's layers are
    `[num_layers, B, hidden_size]` (`h`, and `c` for an LSTM); those of other cells `[B, ...]`, named with their layer.
    """

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary_size, config.embedding_size)
        self.dropout = LockedDropout(config.dropout)
        self.rnn = self._make_rnn(config)
        self.projection = nn.Linear(config.hidden_size, config.vocabulary_size)
        if config.tied:
            self.projection.weight = self.embedding.weight

    @staticmethod
    def _make_rnn(config: LanguageModelConfig) -> nn.Module:
        dropout = config.dropout if config.num_layers > 1 else 0.0
        sizes = config.embedding_size, config.hidden_size
        if config.cell in ROWS:
            return Steps(ROWS[config.cell].make(*sizes, config.num_layers, dropout))
        options: dict[str, Any] = {"num_layers": config.num_layers, "dropout": dropout}
        if config.cell.startswith("rnn_"):
            options["nonlinearity"] = config.cell.removeprefix("rnn_")
        make: Callable[..., nn.Module] = NATIVE[config.cell]
        return make(*sizes, **options)

    def _state_specs(self) -> Iterator[StateSpec]:
        if isinstance(self.rnn, Steps):
            yield from self.rnn.state_specs
            return
        shape = (self.config.num_layers, self.config.hidden_size)
        for name in ("h", "c") if self.config.cell == "lstm" else ("h",):
            yield StateSpec(name, "float32", shape, Axis(batch=1), output=f"{name}_out")

    def signature(self) -> Signature:
        """What `conveyor-export` writes into the file; see `conveyor_export.protocol`."""
        steps = Axis(batch=1, time=0)
        return Signature(
            inputs=(TensorSpec("tokens", "int64", (), steps),),
            states=tuple(self._state_specs()),
            outputs=(OutputSpec("logits", "float32", (self.config.vocabulary_size,), steps, is_logits=True),),
            max_token=self.config.vocabulary_size - 1,
            # A loop over steps is no graph; one of them is.
            fixed_steps=1 if isinstance(self.rnn, Steps) and not native_layers(self.rnn.cell) else None,
        )

    def initial_states(self, batch_size: int) -> dict[str, Tensor]:
        """What a session begins with, for each state."""
        return initial_states(self.signature(), batch_size)

    def forward(
        self, inputs: dict[str, Tensor], states: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Consumes `tokens` from `states`; returns `logits` and the states after the last step."""
        embedded = self.dropout(self.embedding(inputs["tokens"]))
        hidden, new_states = self._run_layers(embedded, states)
        return {"logits": self.projection(self.dropout(hidden))}, new_states

    def _run_layers(self, x_TBF: Tensor, states: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        if self.config.cell in ROWS:
            hidden, new_states = self._call_layers(x_TBF, states)
            return hidden, new_states
        if self.config.cell == "lstm":
            hidden, (h, c) = self._call_layers(x_TBF, (states["h"], states["c"]))
            return hidden, {"h": h, "c": c}
        hidden, h = self._call_layers(x_TBF, states["h"])
        return hidden, {"h": h}

    def _call_layers(self, *arguments: Any) -> Any:
        probability = self.config.weight_dropout
        if not self.training or probability == 0:
            return self.rnn(*arguments)
        # One mask for all steps of a window (Merity, Keskar and Socher, 2018).
        recurrent = ((name, weight) for name, weight in self.rnn.named_parameters() if _is_recurrent(name))
        dropped = {name: nn.functional.dropout(weight, probability) for name, weight in recurrent}
        return functional_call(self.rnn, dropped, arguments)


def _is_recurrent(name: str) -> bool:
    """True of weights that multiply a state: PyTorch's, and those that papers call R."""
    return name.rpartition(".")[2].startswith(("weight_hh", "R"))


def save_checkpoint(path: Any, model: LanguageModel, vocabulary: list[str], provenance: dict[str, Any]) -> None:
    """Writes sizes, weights, vocabulary and provenance: all that `conveyor-export` needs."""
    torch.save(
        {
            "config": asdict(model.config),
            "state_dict": model.state_dict(),
            "vocabulary": vocabulary,
            "provenance": provenance,
        },
        path,
    )


def load_checkpoint(path: Any) -> tuple[LanguageModel, list[str], dict[str, Any]]:
    """Reads what `save_checkpoint` wrote: the model in evaluation mode, its vocabulary and its provenance."""
    saved = torch.load(path, weights_only=True)
    model = LanguageModel(LanguageModelConfig(**saved["config"]))
    model.load_state_dict(saved["state_dict"])
    return model.eval(), saved["vocabulary"], saved["provenance"]

"""The language model that is trained and exported."""

import pytest
import torch
from torch import Tensor

from conveyor_export.language_model import LanguageModel, LanguageModelConfig


def _logits(model: LanguageModel, seed: int) -> Tensor:
    torch.manual_seed(seed)
    outputs, _ = model({"tokens": torch.arange(12).view(6, 2) % 5}, model.initial_states(2))
    return outputs["logits"]


def test_weight_dropout_drops_recurrent_weights_while_training() -> None:
    """Each window of a training has a mask of its own; in use, the whole weights are there again."""
    torch.manual_seed(0)
    model = LanguageModel(LanguageModelConfig(5, embedding_size=4, hidden_size=8, weight_dropout=0.5))
    plain = LanguageModel(LanguageModelConfig(5, embedding_size=4, hidden_size=8))
    plain.load_state_dict(model.state_dict())

    dropped, again, other = _logits(model, 1), _logits(model, 1), _logits(model, 2)
    assert torch.equal(dropped, again)
    # The first step has no state that weights could act on.
    assert torch.equal(dropped[0], other[0])
    assert not torch.allclose(dropped[1:], other[1:])

    assert torch.equal(_logits(model.eval(), 1), _logits(plain.eval(), 1))


def test_weight_dropout_trains_the_recurrent_weights() -> None:
    """Gradients reach the weights that were not dropped, and only those."""
    model = LanguageModel(LanguageModelConfig(5, embedding_size=4, hidden_size=8, num_layers=1, weight_dropout=0.5))

    _logits(model, 1).sum().backward()

    gradient = model.rnn.weight_hh_l0.grad
    assert gradient is not None
    assert 0.3 < float((gradient == 0).float().mean()) < 0.7


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("vocabulary_size", 0, "a positive number"),
        ("embedding_size", -1, "a positive number"),
        ("num_layers", 0, "a positive number"),
        ("dropout", 2, "a share from 0 to less than 1"),
        ("weight_dropout", 1, "a share from 0 to less than 1"),
        ("weight_dropout", -0.1, "a share from 0 to less than 1"),
    ],
)
def test_config_names_the_field_out_of_range(field: str, value: float, expected: str) -> None:
    """A size or a share that cannot be is refused by name, with the range."""
    with pytest.raises(ValueError, match=f"{field}: expected {expected}, got {value}"):
        LanguageModelConfig(**{"vocabulary_size": 5, field: value})

"""What the trainer feeds and measures."""

import math
import random

import pytest
import torch

from conveyor_export.corpus import Work
from conveyor_export.language_model import LanguageModel, LanguageModelConfig
from conveyor_export.training import (
    UNKNOWN,
    Trainer,
    TrainingConfig,
    build_vocabulary,
    encode_works,
    evaluate,
    shuffled_streams,
    windows,
)


def test_vocabulary_starts_with_the_unknown() -> None:
    """Characters that the training text lacks become token 0."""
    symbols = build_vocabulary("cab")

    assert symbols == [UNKNOWN, "a", "b", "c"]
    assert [tokens.tolist() for tokens in encode_works([Work("", "bz"), Work("", "ac")], symbols)] == [[2, 0], [1, 3]]


def test_vocabulary_has_the_unknown_once() -> None:
    """A text that holds the unknown's own character gives no two equal entries, which no export would take."""
    assert build_vocabulary(f"b{UNKNOWN}a") == [UNKNOWN, "a", "b"]


def test_streams_and_windows_cover_the_text_once() -> None:
    """Each token is a target once, and a target is the token after its input."""
    works = [torch.arange(0, 50), torch.arange(50, 103)]
    streams = shuffled_streams(works, 4, random.Random(0))

    assert streams.shape == (25, 4)
    assert len(set(streams.flatten().tolist())) == 100
    pairs = list(windows(streams, 10))
    assert [len(inputs) for inputs, _ in pairs] == [10, 10, 4]
    for inputs, targets in pairs:
        within = (inputs != 49) & (inputs != 102)  # where one work ends, the other begins
        assert torch.equal((inputs + 1)[within], targets[within])


def test_evaluation_equals_scoring_each_work_alone() -> None:
    """Padding of the shorter work, windows and their carried states change nothing."""
    torch.manual_seed(0)
    model = LanguageModel(LanguageModelConfig(5, 4, 8, 2)).train()
    works = [torch.randint(0, 5, (37,)), torch.randint(0, 5, (90,))]
    nats = 0.0
    with torch.no_grad():
        for work in works:
            outputs, _ = model.eval()({"tokens": work[:-1, None]}, model.initial_states(1))
            nats += float(torch.nn.functional.cross_entropy(outputs["logits"][:, 0], work[1:], reduction="sum"))

    expected = nats / (36 + 89) / math.log(2)
    assert evaluate(model, works, window_length=16) == pytest.approx(expected, abs=1e-5)
    assert evaluate(model, works, window_length=200) == pytest.approx(expected, abs=1e-5)


def test_rate_warms_up_then_falls() -> None:
    """The rate rises in a line to its highest and ends at a hundredth of it."""
    config = TrainingConfig(num_epochs=2, batch_size=2, window_length=5, warmup_updates=4, learning_rate=1.0)
    trainer = Trainer(LanguageModel(LanguageModelConfig(3, 2, 2, 1)), [Work("", "a" * 102)], ["a"], config)
    rates = []
    for _ in range(2):
        trainer.run_epoch(lambda bits, num: rates.append(trainer.schedule.get_last_lr()[0]))

    assert len(rates) == 2 * trainer.updates_per_epoch == 20
    assert rates[:3] == pytest.approx([0.5, 0.75, 1.0])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] == pytest.approx(0.01)


@pytest.mark.parametrize("field", ["num_epochs", "batch_size", "learning_rate", "patience"])
def test_config_names_the_bad_field(field: str) -> None:
    """A setting that cannot be is refused by name."""
    with pytest.raises(ValueError, match=f"{field}: expected a positive number"):
        TrainingConfig(**{field: 0})


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("learning_rate", math.inf, "a positive number"),
        ("warmup_updates", -5, "0 or more"),
        ("weight_decay", -0.1, "0 or more"),
        ("rename_share", 7, "a share from 0 to 1"),
        ("reset_probability", -0.1, "a share from 0 to 1"),
        ("unknown_probability", math.nan, "a share from 0 to 1"),
    ],
)
def test_config_names_the_field_out_of_range(field: str, value: float, expected: str) -> None:
    """A setting beyond its range is refused by name, with the range."""
    with pytest.raises(ValueError, match=f"{field}: expected {expected}, got {value}"):
        TrainingConfig(**{field: value})


def test_short_corpus_is_refused() -> None:
    """A text shorter than the batch is refused, not trained on zero windows."""
    with pytest.raises(ValueError, match="too short for a batch of 32"):
        Trainer(LanguageModel(LanguageModelConfig(3, 2, 2, 1)), [Work("", "a" * 63)], ["a"], TrainingConfig())

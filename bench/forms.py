"""`python -m bench.forms`: layers as one ONNX operator beside the same cell of plain operators. Writes `FORMS.md`.

A step of some sessions, and 32 steps of each, which the operator takes in one run and the plain form in 32. Both are
timed in turns, on one thread.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime
import torch
from tqdm import tqdm

from conveyor_export.cells.layers import Steps
from conveyor_export.language_model import LanguageModel, LanguageModelConfig
from conveyor_export.machine import cpu_name
from conveyor_export.tracing import trace

REPORT = Path(__file__).parent / "FORMS.md"
# PyTorch's layers, which are exported as one operator each, and the same functions as cells.
PAIRS = {"lstm": "essay_lstm", "gru": "gru_reset_after", "rnn_tanh": "elman"}
HIDDEN, VOCABULARY = 512, 256
BATCHES, LENGTHS = (1, 16, 64), (1, 32)
ROUNDS = 9
ROUND_STEPS = 512  # rows times steps of each form in a round

Run = Callable[[], Any]


class _PlainSteps(Steps):
    """Exported as it is: a stand-in is only for `Steps` itself."""


def main() -> None:
    """Measures, prints, writes."""
    rows = [(native, *_ratios(native, cell)) for native, cell in tqdm(PAIRS.items(), disable=None)]
    report = _report(rows)
    print(report)
    REPORT.write_text(report)


def _ratios(native: str, cell: str) -> list[float]:
    operator, plain = _session(_model(native), None), _session(_model(cell), 1)
    return [_ratio(operator, plain, batch, length) for batch in BATCHES for length in LENGTHS]


def _model(cell: str) -> LanguageModel:
    torch.manual_seed(0)
    model = LanguageModel(LanguageModelConfig(VOCABULARY, HIDDEN // 2, HIDDEN, 1, cell=cell)).eval()
    if isinstance(model.rnn, Steps):
        model.rnn = _PlainSteps(model.rnn.cell)
    return model


def _session(model: LanguageModel, fixed_steps: int | None) -> onnxruntime.InferenceSession:
    graph = trace(model, replace(model.signature(), fixed_steps=fixed_steps), opset=20).model
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _ratio(operator: Any, plain: Any, batch: int, length: int) -> float:
    """Time of the plain form over that of the operator: the median of rounds, in each of which both have a turn."""
    whole, step = _feeds(operator, batch, length), _feeds(plain, batch, 1)
    count = max(2, ROUND_STEPS // (batch * length))
    ratios = []
    for _ in range(ROUNDS):
        seconds = _time(lambda: operator.run(None, whole), count)
        ratios.append(_time(lambda: plain.run(None, step), count * length) / seconds)
    return median(ratios)


def _feeds(session: onnxruntime.InferenceSession, batch: int, length: int) -> dict[str, Any]:
    feeds: dict[str, Any] = {"tokens": np.ones((length, batch), np.int64)}
    for node in session.get_inputs()[1:]:
        feeds[node.name] = np.zeros([size if isinstance(size, int) else batch for size in node.shape], np.float32)
    return feeds


def _time(run: Run, count: int) -> float:
    begun = perf_counter()
    for _ in range(count):
        run()
    return perf_counter() - begun


def _report(rows: list[tuple[Any, ...]]) -> str:
    heads = [f"{batch} x {length}" for batch in BATCHES for length in LENGTHS]
    lines = [
        "# One operator or several",
        "",
        "Made by `python -m bench.forms`; do not edit.",
        "",
        "Time of a cell's plain operators over that of one ONNX operator: above 1, the operator is faster."
        " Columns are sessions x steps.",
        f"{cpu_name()}, one thread, onnxruntime {onnxruntime.__version__}; {HIDDEN} units with an embedding and a"
        f" projection around them; medians over {ROUNDS} rounds.",
        "",
        f"| layer | {' | '.join(heads)} |",
        f"| --- |{' ---: |' * len(heads)}",
    ]
    lines += [f"| `{name}` | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |" for name, *ratios in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

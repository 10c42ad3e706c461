"""The heads' ONNX Runtime sessions: each looks at rows of a run's logits."""

from typing import Any

import numpy as np
import onnxruntime

from conveyor.engine.feeds import Feeds, Results
from conveyor.engine.limits import Device
from conveyor.engine.ort import make_session
from conveyor.engine.work import Array
from conveyor.graph.heads import sample_head, score_head, top_head


class Heads:
    """Small graphs that look at chosen rows of the logits where these are, so that only their findings move."""

    def __init__(self, dtype: str, device: Device) -> None:
        models = {"top": top_head(dtype), "score": score_head(dtype), "sample": sample_head(dtype)}
        self._sessions = {name: make_session(m.SerializeToString(), device, 1) for name, m in models.items()}

    def run(self, feeds: Feeds, logits: onnxruntime.OrtValue, results: Results) -> None:
        if feeds.top:
            tokens, scores = self._run("top", logits, rows=feeds.top.rows, k=np.array([feeds.top.k], np.int64))
            results.top_tokens, results.top_scores = tokens.tolist(), scores.tolist()
        if feeds.score:
            (scores,) = self._run("score", logits, rows=feeds.score.rows, targets=feeds.score.targets)
            results.scores = scores.tolist()
        if feeds.sample:
            s = feeds.sample
            fields = {name: getattr(s, name) for name in s.__slots__}
            tokens, scores = self._run("sample", logits, **fields)
            results.sampled_tokens, results.sampled_scores = tokens.tolist(), scores.tolist()

    def _run(self, head: str, logits: onnxruntime.OrtValue, **feeds: Any) -> list[Array]:
        session = self._sessions[head]
        if logits.device_name() == "cpu":
            found: list[Array] = session.run(None, {"logits": logits.numpy(), **feeds})
            return found
        binding = session.io_binding()
        binding.bind_ortvalue_input("logits", logits)
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for output in session.get_outputs():
            binding.bind_output(output.name, "cpu")
        session.run_with_iobinding(binding)
        return [value.numpy() for value in binding.get_outputs()]

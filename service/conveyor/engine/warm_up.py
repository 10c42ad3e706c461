"""A session and a run that nobody asked for: zeros or the last token in, every head wanted. Pure."""

import numpy as np

from conveyor.engine.assembly import to_layout
from conveyor.engine.feeds import Feeds, SampleFeeds, ScoreFeeds, TopFeeds
from conveyor.engine.work import Array
from conveyor.signature import Signature, TensorSpec


def warm_up_feeds(signature: Signature, num_sessions: int) -> Feeds:
    """One step of so many sessions. Reads slot 0 and context slot 1, writes slots from 1 on; all must be nobody's."""
    rows = np.arange(num_sessions)
    feeds = Feeds(
        num_steps=1,
        inputs={spec.name: to_layout(_steps(spec, signature, num_sessions), spec) for spec in signature.timed},
        lengths=np.ones(num_sessions, np.int32),
        read_slots=np.zeros(num_sessions, np.int64),
        write_slots=1 + rows,
        outputs=tuple(spec.name for spec in signature.outputs),
        context_slots=np.ones(num_sessions, np.int64),
    )
    if signature.logits:
        feeds.top = TopFeeds(rows, 1)
        feeds.score = ScoreFeeds(rows, np.zeros(num_sessions, np.int64))
        feeds.sample = _sample_feeds(rows)
    return feeds


def warm_up_contexts(signature: Signature) -> dict[str, Array]:
    """What a client has to give at opening, without a batch axis."""
    return {
        spec.name: np.full(spec.shape, _value(spec, signature), spec.dtype)
        for spec in signature.given_contexts
        if spec.default is None
    }


def _steps(spec: TensorSpec, signature: Signature, num_sessions: int) -> Array:
    return np.full((1, num_sessions, *spec.shape), _value(spec, signature), spec.dtype)


def _value(spec: TensorSpec, signature: Signature) -> int:
    # The last token: if the model does not know it after all, it is not to be found out with a client's.
    return signature.max_token or 0 if spec.dtype.startswith("int") else 0


def _sample_feeds(rows: np.ndarray) -> SampleFeeds:
    ones, zeros = np.ones(len(rows), np.float32), np.zeros(len(rows), np.float32)
    nobody = np.full((len(rows), 1), -1, np.int64)
    return SampleFeeds(rows, ones, np.zeros(len(rows), np.int64), ones, ones, nobody, zeros)

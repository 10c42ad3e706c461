"""A run that nobody asked for: zeros in, every head wanted. Pure."""

import numpy as np

from conveyor.engine.assembly import to_layout
from conveyor.engine.feeds import Feeds, SampleFeeds, ScoreFeeds, TopFeeds
from conveyor.signature import Signature


def warm_up_feeds(signature: Signature, num_sessions: int) -> Feeds:
    """One step of so many sessions. Reads slot 0, writes slots from 1 on, which must be nobody's."""
    rows = np.arange(num_sessions)
    feeds = Feeds(
        num_steps=1,
        inputs={s.name: to_layout(np.zeros((1, num_sessions, *s.shape), s.dtype), s) for s in signature.inputs},
        lengths=np.ones(num_sessions, np.int32),
        read_slots=np.zeros(num_sessions, np.int64),
        write_slots=1 + rows,
        outputs=tuple(spec.name for spec in signature.outputs),
    )
    if signature.logits:
        feeds.top = TopFeeds(rows, 1)
        feeds.score = ScoreFeeds(rows, np.zeros(num_sessions, np.int64))
        feeds.sample = _sample_feeds(rows)
    return feeds


def _sample_feeds(rows: np.ndarray) -> SampleFeeds:
    ones, zeros = np.ones(len(rows), np.float32), np.zeros(len(rows), np.float32)
    nobody = np.full((len(rows), 1), -1, np.int64)
    return SampleFeeds(rows, ones, np.zeros(len(rows), np.int64), ones, ones, nobody, zeros)

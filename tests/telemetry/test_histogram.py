"""Histograms that take whole batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Histogram as PrometheusHistogram

from conveyor.telemetry.histogram import Histogram

BOUNDS = (0.1, 1.0, 5.0)


@given(st.lists(st.floats(0, 10) | st.sampled_from(BOUNDS)))
def test_it_counts_as_prometheus_does(values: list[float]) -> None:
    """One by one, all at once, and in Prometheus's own histogram, the buckets are the same."""
    one, all_, theirs = (
        Histogram(BOUNDS),
        Histogram(BOUNDS),
        PrometheusHistogram("x", "x", buckets=BOUNDS, registry=None),
    )
    for value in values:
        one.observe(value)
        theirs.observe(value)
    all_.observe_all(np.array(values))

    expected = [(s.labels["le"], s.value) for s in theirs.collect()[0].samples if s.name == "x_bucket"]
    assert one.buckets() == all_.buckets() == expected
    assert one.sum == pytest.approx(sum(values))
    assert all_.sum == pytest.approx(sum(values))

"""Reading Prometheus's text, and what changed between two readings."""

import pytest

from conveyor.cli.metrics_page import Change, Page, parse_page

TEXT = """# HELP conveyor_steps_total Steps.
# TYPE conveyor_steps_total counter
conveyor_steps_total{model="a \\"b\\"",version="1"} 10.0
conveyor_steps_total{model="c",version="1"} 2.5
conveyor_sessions{model="c",version="1"} 3
up 1
"""


def histogram(counts: dict[str, float]) -> Page:
    return Page({"h_bucket": [({"le": bound}, count) for bound, count in counts.items()]}, time=0.0)


def test_samples_are_summed_by_labels() -> None:
    """A name's samples are summed over the labels that were not asked for."""
    page = parse_page(TEXT)

    assert page.total("conveyor_steps_total") == 12.5
    assert page.total("conveyor_steps_total", model="c") == 2.5
    assert page.total("up") == 1
    assert page.total("nothing") == 0
    assert page.models() == [{"model": "c", "version": "1"}]


def test_another_page_is_refused() -> None:
    """What is not Prometheus's format is an error."""
    with pytest.raises(ValueError, match="html"):
        parse_page("<html><body>")


def test_a_rate_is_growth_over_time() -> None:
    """A counter's rate is its growth per second, counted from zero after a restart."""
    before, after = Page({"n": [({}, 4.0)]}, time=1.0), Page({"n": [({}, 10.0)]}, time=3.0)

    assert Change(before, after).rate("n") == 3.0
    assert Change(after, Page({"n": [({}, 4.0)]}, time=5.0)).rate("n") == 2.0


def test_a_quantile_lies_between_bounds() -> None:
    """A quantile of the new values lies straight between the bounds of its bucket."""
    before = histogram({"1.0": 5, "2.0": 5, "+Inf": 5})
    after = histogram({"1.0": 5, "2.0": 15, "+Inf": 15})

    assert Change(before, after).quantile(0.5, "h") == pytest.approx(1.5)
    assert Change(before, histogram({"1.0": 5, "2.0": 5, "+Inf": 9})).quantile(0.9, "h") == 2.0
    assert Change(before, before).quantile(0.5, "h") is None

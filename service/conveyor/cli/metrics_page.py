"""Reads a server's Prometheus page, and what changed between two readings of it."""

import re
import urllib.error
import urllib.request
from collections import defaultdict
from dataclasses import dataclass, field
from http.client import HTTPException
from time import monotonic
from typing import Any

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Labels = dict[str, str]


@dataclass(frozen=True, slots=True)
class Page:
    """The samples of one reading, by name. `time` is in seconds of the monotonic clock."""

    samples: dict[str, list[tuple[Labels, float]]]
    time: float = field(default_factory=monotonic)

    def total(self, name: str, **labels: str) -> float:
        """Sum of the samples that have these labels; 0 if there is none."""
        return sum(value for has, value in self.samples.get(name, ()) if labels.items() <= has.items())

    def models(self) -> list[Labels]:
        """The labels of each loaded model version."""
        return [labels for labels, _ in self.samples.get("conveyor_sessions", ())]

    def buckets(self, name: str, **labels: str) -> dict[float, float]:
        """Number of values up to each bound of a histogram."""
        counts: defaultdict[float, float] = defaultdict(float)
        for has, value in self.samples.get(f"{name}_bucket", ()):
            if labels.items() <= has.items():
                counts[float(has["le"])] += value
        return dict(sorted(counts.items()))


@dataclass(frozen=True, slots=True)
class Change:
    """What happened between two readings."""

    before: Page
    after: Page

    def rate(self, name: str, **labels: str) -> float:
        """Growth of a counter per second."""
        return self.growth(name, **labels) / max(self.after.time - self.before.time, 1e-9)

    def growth(self, name: str, **labels: str) -> float:
        """Growth of a counter; from zero if the server was restarted in between."""
        after = self.after.total(name, **labels)
        grown = after - self.before.total(name, **labels)
        return grown if grown >= 0 else after

    def mean(self, name: str, **labels: str) -> float | None:
        """Mean of a histogram's new values; None without any."""
        count = self.growth(f"{name}_count", **labels)
        return self.growth(f"{name}_sum", **labels) / count if count else None

    def quantile(self, share: float, name: str, **labels: str) -> float | None:
        """The value below which this share of a histogram's new values lies, straight between bounds; None without any.

        A value beyond the last bound counts as that bound.
        """
        before = self.before.buckets(name, **labels)
        counts = {bound: count - before.get(bound, 0.0) for bound, count in self.after.buckets(name, **labels).items()}
        rank = share * max(counts.values(), default=0.0)
        if not rank:
            return None
        low, below = 0.0, 0.0
        for bound, count in counts.items():
            if count >= rank:
                return low if bound == float("inf") else low + (bound - low) * (rank - below) / (count - below)
            low, below = bound, count
        return low


def read_page(address: str, timeout: float = 5.0) -> Page:
    """Scrapes `host:port`.

    Raises:
        OSError: nobody answers there.
        ValueError: what answers is not a Prometheus page.
    """
    url = f"http://{address}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            return parse_page(response.read().decode())
    except urllib.error.HTTPError as error:
        raise ValueError(f"{url}: {error}") from error
    except urllib.error.URLError as error:
        reason: Any = error.reason
        raise ConnectionError(f"no metrics at {address}: {getattr(reason, 'strerror', None) or reason}") from error
    except HTTPException as error:  # it may quote what came, which can be bytes of gRPC
        raise ValueError(f"no metrics at {address}: the answer is not HTTP ({type(error).__name__})") from error


def parse_page(text: str) -> Page:
    """Reads Prometheus's text format.

    Raises:
        ValueError: it is something else.
    """
    samples: defaultdict[str, list[tuple[Labels, float]]] = defaultdict(list)
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        match = _SAMPLE.match(line)
        if match is None:
            raise ValueError(f"not a line of Prometheus's text format: {line[:80]!r}")
        samples[match[1]].append((dict(_LABEL.findall(match[2] or "")), float(match[3])))
    return Page(dict(samples))

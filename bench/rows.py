"""What is measured, and what is asked of it."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from bench.measurement import Measurement


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: a part, and how many sessions it steps."""

    part: str
    count: int
    title: str


Round = dict[Row, Measurement]

BARE_1 = Row("bare", 1, "bare `session.run`, batch 1")
PACED_1 = Row("paced", 1, "bare `session.run`, batch 1, half a millisecond apart")
BARE_32 = Row("bare", 32, "bare `session.run`, batch 32")
BARE_256 = Row("bare", 256, "bare `session.run`, batch 256")
ENGINE_256 = Row("engine", 256, "engine in process, 256 sessions")
ENGINE_512 = Row("engine", 512, "engine in process, 512 sessions in batches of 256")
COALESCED_1024 = Row("sdk", 1024, "gRPC, 1,024 sessions coalesced by the SDK")
COALESCED_256 = Row("sdk", 256, "gRPC, 256 sessions coalesced by the SDK")
ECHO_1 = Row("echo", 1, "bare gRPC echo, 1 stream")
STREAMS_1 = Row("streams", 1, "gRPC, one session")
LEAST_1 = Row("least", 1, "least server, one session")
ECHO_64 = Row("echo", 64, "bare gRPC echo, 64 streams")
STREAMS_64 = Row("streams", 64, "gRPC, 64 sessions with a stream each")
LEAST_64 = Row("least", 64, "least server, 64 sessions with a stream each")
ECHO_256 = Row("echo", 256, "bare gRPC echo, 256 streams")
STREAMS_256 = Row("streams", 256, "gRPC, 256 sessions with a stream each")
LEAST_256 = Row("least", 256, "least server, 256 sessions with a stream each")

# In this order, so that what is compared is measured side by side.
ROWS = (
    *(BARE_32, ENGINE_256, BARE_256, ENGINE_512, COALESCED_1024, COALESCED_256),
    *(BARE_1, PACED_1, STREAMS_1, ECHO_1, LEAST_1),
    *(STREAMS_64, ECHO_64, LEAST_64, STREAMS_256, ECHO_256, LEAST_256),
)


@dataclass(frozen=True, slots=True)
class Target:
    """A ratio within one round, and the bound that its median over the rounds has to keep."""

    title: str
    bound: float
    is_upper: bool
    ratio: Callable[[Round], float]

    def is_met(self, ratio: float) -> bool:
        """True if the ratio is on the right side of the bound."""
        return ratio <= self.bound if self.is_upper else ratio >= self.bound


def _rates(title: str, bound: float, row: Row, reference: Row) -> Target:
    return Target(title, bound, False, lambda measured: measured[row].rate / measured[reference].rate)


TARGETS = (
    _rates("engine at 256 sessions / bare batch 256", 0.85, ENGINE_256, BARE_256),
    _rates("engine at 512 sessions / bare batch 256", 0.85, ENGINE_512, BARE_256),
    _rates("1,024 coalesced sessions / bare batch 256", 0.7, COALESCED_1024, BARE_256),
    _rates("64 streams / 64 echo streams", 0.8, STREAMS_64, ECHO_64),
    _rates("256 streams / 256 echo streams", 0.8, STREAMS_256, ECHO_256),
    Target(
        "one session's p50 / (bare batch 1 p50 + 1.2 echo p50)",
        1.0,
        True,
        lambda measured: measured[STREAMS_1].p50 / (measured[BARE_1].p50 + 1.2 * measured[ECHO_1].p50),
    ),
)


@dataclass(frozen=True, slots=True)
class Ceiling:
    """How near the server comes to what could be had of the same gRPC and the same model."""

    row: Row
    echo: Row
    bare: Row
    least: Row

    def rate(self, measured: Round) -> float:
        """Steps a second if a message cost the echo's time on all cores, a step bare's on one, and nothing else any."""
        num_cores = len(os.sched_getaffinity(0))
        return 1 / (1 / measured[self.echo].rate + 1 / (num_cores * measured[self.bare].rate))


CEILINGS = (
    Ceiling(STREAMS_64, ECHO_64, BARE_32, LEAST_64),
    Ceiling(STREAMS_256, ECHO_256, BARE_256, LEAST_256),
)
